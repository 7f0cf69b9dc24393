"""Chosen and rejected texts."""

from pathlib import Path

import dagster as dg

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("text_preferences")
def text_preferences(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Materialized:
    yield from pipeline.materialize(context)


@stage_asset("caption_preferences")
def caption_preferences(
    context: dg.AssetExecutionContext, pipeline: Pipeline, image_text_pairs: Path, base_models: Path
) -> Materialized:
    yield from pipeline.materialize(context, image_text_pairs=image_text_pairs, base_models=base_models)


@stage_asset("instruction_preferences")
def instruction_preferences(
    context: dg.AssetExecutionContext, pipeline: Pipeline, instruction_samples: Path, base_models: Path
) -> Materialized:
    yield from pipeline.materialize(context, instruction_samples=instruction_samples, base_models=base_models)
