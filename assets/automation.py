"""Jobs and what starts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from rsqa_pipeline.lineage.manifest import ManifestStore, manifests
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import settings_version, source_version

EVERYTHING = "all"

_CURATION = ("source_pairs", "tiny_models", "preference_data", "score_model", "curated_subsets")
_USES = ("finetuned_models", "rl_policy", "benchmarks", "report")
_JOBS = {
    EVERYTHING: ((*_CURATION, *_USES), "Every asset; what is unchanged is kept."),
    "curate_only": (_CURATION, "From the sources to the subsets; nothing is fine-tuned."),
    "retrain": (
        ("score_model", "curated_subsets", *_USES),
        "The score model and all below it, from the preference data that stand.",
    ),
    "benchmark": (("benchmarks", "report"), "The benchmarks of the models that stand, and the report."),
}
"""Job -> its stages and what it is for."""


def jobs(assets: Mapping[str, Asset]) -> dict[str, dg.UnresolvedAssetJobDefinition]:
    """The jobs of a profile by name. A job makes what is stale; with ``force`` in the launchpad, all of it."""
    return {
        name: dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*[asset.name for asset in assets.values() if asset.stage in stages]),
            description=description,
            executor_def=dg.in_process_executor,
        )
        for name, (stages, description) in _JOBS.items()
    }


def nightly_schedule(job: dg.UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Runs the job every night."""
    return dg.ScheduleDefinition(
        name="nightly",
        job=job,
        cron_schedule="0 2 * * *",
        description="Everything that changed since yesterday.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def source_sensor(
    job: dg.UnresolvedAssetJobDefinition, profile: Profile, assets: Mapping[str, Asset]
) -> dg.SensorDefinition:
    """Starts the job when a file or folder that the profile reads from outside has other content than the last run
    read."""

    @dg.sensor(
        name="source_data_changed",
        job=job,
        minimum_interval_seconds=60,
        description="Watches the profile's source files and folders by content.",
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def source_data_changed(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        paths = sorted({Path(source) for asset in assets.values() for source in asset.sources})
        signature = _signature(paths)
        fired, _, seen = (context.cursor or "0 ").partition(" ")
        if signature == seen:
            return dg.SkipReason(f"{len(paths)} sources unchanged")
        now = {path.as_posix(): source_version(path) for path in paths if path.exists()}
        read = _versions_read(manifests(profile), assets.values())
        changed = sorted(name for name, version in read.items() if now.get(name) != version)
        count = int(fired) + bool(changed)
        context.update_cursor(f"{count} {signature}")
        if not changed:
            return dg.SkipReason(f"the content of {len(paths)} sources is what the last run read")
        # the count makes the key new where data return to an earlier version
        return dg.RunRequest(run_key=f"{count} {signature}", tags={"rsqa/changed": ", ".join(changed)[:200]})

    return source_data_changed


def _signature(paths: Iterable[Path]) -> str:
    """Names, sizes and times of all files: cheap to look at every minute."""
    found: list[Any] = []
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat() if file.exists() else None
            found.append([file.as_posix(), status and [status.st_size, status.st_mtime_ns]])
    return settings_version(found)


def _versions_read(store: ManifestStore, assets: Iterable[Asset]) -> dict[str, str]:
    """Source -> its version when an asset that reads it was last made; a source that no run has read is not there."""
    found: dict[str, str] = {}
    for asset in assets:
        history = store.history(asset.name) if asset.sources else []
        found |= history[-1].recipe.sources if history else {}
    return found
