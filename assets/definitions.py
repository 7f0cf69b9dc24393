"""Everything Dagster loads, for the profile in ``RSQA_PROFILE`` or, without it, in ``params.yaml``."""

from __future__ import annotations

import os

import dagster as dg

from rsqa_pipeline.profile import default_profile, load_profile

from . import (
    curated_subsets,
    finetuned_models,
    gathering,
    preference_data,
    rl_policy,
    score_model,
    source_pairs,
    tiny_models,
)
from .automation import everything, nightly, source_sensor
from .resources import FolderIOManager, Pipeline


def build(profile_name: str, force: bool = False) -> dg.Definitions:
    """The code location for one profile."""
    modules = [
        source_pairs,
        tiny_models,
        preference_data,
        score_model,
        curated_subsets,
        finetuned_models,
        rl_policy,
        gathering,
    ]
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules),
        jobs=[everything],
        schedules=[nightly],
        sensors=[source_sensor(load_profile(profile_name))],
        resources={
            "pipeline": Pipeline(profile_name=profile_name, force=force),
            "folder": FolderIOManager(profile_name=profile_name),
        },
    )


defs = build(os.environ.get("RSQA_PROFILE") or default_profile())
