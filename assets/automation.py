"""Jobs and what starts them."""

from __future__ import annotations

import dagster as dg

from rsqa_pipeline.materialize import source_paths
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import ASSETS
from rsqa_pipeline.versions import file_md5

EVERYTHING = "everything"

everything = dg.define_asset_job(
    EVERYTHING,
    selection=dg.AssetSelection.assets(*ASSETS),
    description="Every asset; what is unchanged is kept.",
    executor_def=dg.in_process_executor,
)

nightly = dg.ScheduleDefinition(
    name="nightly",
    job=everything,
    cron_schedule="0 2 * * *",
    description="Everything that changed since yesterday.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)


def source_sensor(profile: Profile) -> dg.SensorDefinition:
    """Starts the job when a file that the profile reads from outside has changed."""

    @dg.sensor(name="source_data_changed", job=everything, minimum_interval_seconds=60)
    def source_data_changed(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        files = sorted({path for asset in ASSETS.values() for path in source_paths(profile, asset) if path.is_file()})
        version = " ".join(f"{path}:{file_md5(path)}" for path in files)
        if version == context.cursor:
            return dg.SkipReason(f"{len(files)} source files unchanged")
        context.update_cursor(version)
        return dg.RunRequest(run_key=version)

    return source_data_changed
