"""Assets that gather many others: benchmarks over all models, the report, the lineage."""

from pathlib import Path

import dagster as dg

from rsqa_pipeline.stages import ASSETS, in_stage

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


def gathering(name: str) -> dg.AssetsDefinition:
    """An asset whose arguments are all the inputs that the table of stages names."""

    @stage_asset(name, ins={upstream: dg.AssetIn(upstream) for upstream in ASSETS[name].inputs})
    def gather(context: dg.AssetExecutionContext, pipeline: Pipeline, **folders: Path) -> Materialized:
        yield from pipeline.materialize(context, **folders)

    return gather


benchmarks = [gathering(asset.name) for asset in in_stage("benchmarks")]
report = [gathering(asset.name) for asset in in_stage("report")]
