"""Policies trained with GRPO."""

from pathlib import Path

import dagster as dg

from .resources import Materialized, Pipeline
from .stage_asset import stage_asset


@stage_asset("rl_policy")
def rl_policy(
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


@stage_asset("rl_policy_rules_only")
def rl_policy_rules_only(
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
