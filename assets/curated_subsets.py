"""Scores of the corpus and the subsets chosen by them."""

from pathlib import Path

import dagster as dg

from rsqa_pipeline.stages import SUBSETS

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("pair_scores")
def pair_scores(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    score_model: Path,
    image_text_pairs: Path,
    instruction_samples: Path,
) -> Materialized:
    yield from pipeline.materialize(
        context,
        score_model=score_model,
        image_text_pairs=image_text_pairs,
        instruction_samples=instruction_samples,
    )


@stage_asset("clip_scores")
def clip_scores(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    base_models: Path,
    image_text_pairs: Path,
    instruction_samples: Path,
) -> Materialized:
    yield from pipeline.materialize(
        context,
        base_models=base_models,
        image_text_pairs=image_text_pairs,
        instruction_samples=instruction_samples,
    )


@stage_asset("score_drift")
def score_drift(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    pair_scores: Path,
    caption_score_model: Path,
    image_text_pairs: Path,
) -> Materialized:
    yield from pipeline.materialize(
        context,
        pair_scores=pair_scores,
        caption_score_model=caption_score_model,
        image_text_pairs=image_text_pairs,
    )


def subset(name: str) -> dg.AssetsDefinition:
    """The asset of one subset."""

    @stage_asset(f"subset_{name}")
    def chosen_ids(
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        pair_scores: Path,
        clip_scores: Path,
        image_text_pairs: Path,
        instruction_samples: Path,
    ) -> Materialized:
        yield from pipeline.materialize(
            context,
            pair_scores=pair_scores,
            clip_scores=clip_scores,
            image_text_pairs=image_text_pairs,
            instruction_samples=instruction_samples,
        )

    return chosen_ids


subsets = [subset(name) for name in SUBSETS]
