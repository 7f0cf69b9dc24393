"""The models that everything starts from."""

from pathlib import Path

import dagster as dg

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("base_models")
def base_models(context: dg.AssetExecutionContext, pipeline: Pipeline, image_text_pairs: Path) -> Materialized:
    yield from pipeline.materialize(context, image_text_pairs=image_text_pairs)
