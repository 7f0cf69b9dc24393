"""Everything that Dagster loads for a profile."""

from __future__ import annotations

import dagster as dg

from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.stages import assets_of

from .automation import EVERYTHING, jobs, nightly_schedule, source_sensor
from .resources import FolderIOManager, Pipeline
from .stage_asset import stage_asset


def build(profile_name: str, force: bool = False) -> dg.Definitions:
    """The code location of one profile."""
    profile = load_profile(profile_name)
    assets = assets_of(profile)
    by_name = jobs(assets)
    everything = by_name[EVERYTHING]
    return dg.Definitions(
        assets=[stage_asset(asset) for asset in assets.values()],
        jobs=list(by_name.values()),
        schedules=[nightly_schedule(everything)],
        sensors=[source_sensor(everything, profile, assets)],
        executor=dg.in_process_executor,  # a run writes one asset at a time, under the profile's lock
        resources={
            "pipeline": Pipeline(profile_name=profile_name, force=force),
            "folder": FolderIOManager(profile_name=profile_name),
        },
    )
