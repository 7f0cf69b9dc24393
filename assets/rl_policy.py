"""Policies trained with GRPO."""

from pathlib import Path

import dagster as dg

from rsqa_pipeline.stages import in_stage

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


def policy(name: str) -> dg.AssetsDefinition:
    """The policy trained with one set of rewards."""

    @stage_asset(name)
    def trained_policy(
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        vlm_score_model_30: Path,
        instruction_samples: Path,
        score_model: Path,
    ) -> Materialized:
        yield from pipeline.materialize(
            context,
            vlm_score_model_30=vlm_score_model_30,
            instruction_samples=instruction_samples,
            score_model=score_model,
        )

    return trained_policy


policies = [policy(asset.name) for asset in in_stage("rl_policy")]
