"""The score model, phase by phase, and how far to trust it."""

from pathlib import Path

import dagster as dg

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("score_head")
def score_head(
    context: dg.AssetExecutionContext, pipeline: Pipeline, text_preferences: Path, base_models: Path
) -> Materialized:
    yield from pipeline.materialize(context, text_preferences=text_preferences, base_models=base_models)


@stage_asset("caption_score_model")
def caption_score_model(
    context: dg.AssetExecutionContext, pipeline: Pipeline, caption_preferences: Path, score_head: Path
) -> Materialized:
    yield from pipeline.materialize(context, caption_preferences=caption_preferences, score_head=score_head)


@stage_asset("score_model")
def score_model(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    instruction_preferences: Path,
    caption_preferences: Path,
    text_preferences: Path,
    caption_score_model: Path,
) -> Materialized:
    yield from pipeline.materialize(
        context,
        instruction_preferences=instruction_preferences,
        caption_preferences=caption_preferences,
        text_preferences=text_preferences,
        caption_score_model=caption_score_model,
    )


@stage_asset("score_model_report")
def score_model_report(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    score_model: Path,
    caption_preferences: Path,
    instruction_preferences: Path,
    base_models: Path,
) -> Materialized:
    yield from pipeline.materialize(
        context,
        score_model=score_model,
        caption_preferences=caption_preferences,
        instruction_preferences=instruction_preferences,
        base_models=base_models,
    )
