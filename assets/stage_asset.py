"""Dagster assets, generated from the table of stages."""

from pathlib import Path

import dagster as dg

from rsqa_pipeline.data_quality.checks import ADVISORY, DESCRIPTIONS, check_names
from rsqa_pipeline.stages import STAGES
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import code_version

from .resources import Materialized, Pipeline

_RETRY = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)


def stage_asset(asset: Asset) -> dg.AssetsDefinition:
    """The Dagster asset of a line of the table: its arguments are the asset's inputs."""
    stage = STAGES[asset.stage]

    @dg.asset(
        name=asset.name,
        ins={name: dg.AssetIn(name) for name in asset.inputs},
        group_name=asset.stage,
        description=asset.description,
        kinds=_kinds(asset),
        owners=[stage.owner],
        code_version=code_version(asset.module)[:12],
        pool="gpu" if asset.gpu else None,
        retry_policy=_RETRY if stage.retried else None,
        check_specs=[
            dg.AssetCheckSpec(check, asset=asset.name, description=DESCRIPTIONS[check], blocking=check not in ADVISORY)
            for check in check_names(asset)
        ],
        io_manager_key="folder",
    )
    def materialize_asset(context: dg.AssetExecutionContext, pipeline: Pipeline, **inputs: Path) -> Materialized:
        yield from pipeline.materialize(context, asset.name, inputs)

    return materialize_asset


def _kinds(asset: Asset) -> set[str]:
    if asset.stage == "report":
        return {"python", "html" if asset.name == "curation_report" else "json"}
    return {"python", "pytorch"} if asset.gpu else {"python", "parquet"}
