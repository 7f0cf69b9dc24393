"""Jobs and what starts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from rsqa_pipeline.asset import Asset
from rsqa_pipeline.versions import file_md5

EVERYTHING = "everything"


def everything_job(assets: Mapping[str, Asset]) -> dg.UnresolvedAssetJobDefinition:
    """The job that makes every asset of a profile."""
    return dg.define_asset_job(
        EVERYTHING,
        selection=dg.AssetSelection.assets(*assets),
        description="Every asset; what is unchanged is kept.",
        executor_def=dg.in_process_executor,
    )


def nightly_schedule(job: dg.UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Runs the job every night."""
    return dg.ScheduleDefinition(
        name="nightly",
        job=job,
        cron_schedule="0 2 * * *",
        description="Everything that changed since yesterday.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def source_sensor(job: dg.UnresolvedAssetJobDefinition, assets: Mapping[str, Asset]) -> dg.SensorDefinition:
    """Starts the job when a file that the profile reads from outside has changed."""

    @dg.sensor(name="source_data_changed", job=job, minimum_interval_seconds=60)
    def source_data_changed(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        paths = sorted({Path(source) for asset in assets.values() for source in asset.sources})
        files = [path for path in paths if path.is_file()]
        version = " ".join(f"{path}:{file_md5(path)}" for path in files)
        if version == context.cursor:
            return dg.SkipReason(f"{len(files)} source files unchanged")
        context.update_cursor(version)
        return dg.RunRequest(run_key=version)

    return source_data_changed
