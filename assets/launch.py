"""Runs assets through Dagster in this process, and records what they made with DVC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rsqa_pipeline.dvc_files.lock import rebuild_manifests
from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.materialization.materialize import writing
from rsqa_pipeline.materialization.progress import report
from rsqa_pipeline.materialization.staleness import stale_assets
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset_names import downstream

from .dvc_record import record, recorded_by_dvc


@dataclass
class LaunchResult:
    """What a launch did."""

    computed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    """Assets whose outputs were written to ``dvc.lock``."""


class RunFailed(RsqaError):
    """An asset failed; the assets that do not depend on it are made."""


def launch(profile: Profile, profile_name: str, names: Sequence[str], force: bool = False) -> LaunchResult:
    """Materializes the stale ones among ``names`` in one Dagster run.

    Args:
        profile_name: name or path that the profile was loaded from.
        names: assets, e.g. from `stages.select`.
        force: make all of them, stale or not.

    Raises:
        RunFailed: an asset failed or was not made because one above it failed.
        DataError: another process writes the profile, or its databases or ``dvc.lock`` cannot be used.
    """
    with writing(profile, "rsqa run"):
        return _launch(profile, profile_name, names, force)


def _launch(profile: Profile, profile_name: str, names: Sequence[str], force: bool) -> LaunchResult:
    if recorded_by_dvc(profile):
        rebuild_manifests(profile_name, profile)
    stale = {asset.name: asset for asset in stale_assets(profile, names)}
    wanted = [name for name in names if force or name in stale]
    assets = assets_of(profile)
    result = LaunchResult(unchanged=[name for name in names if name not in wanted])
    report(
        "plan",
        names=wanted,
        unchanged=len(result.unchanged),
        estimates={name: stale[name].last_seconds for name in wanted if name in stale},
    )
    if wanted:
        from .dagster_run import run_job  # a second to import, which an unchanged asset does not wait for

        made, failures = run_job(profile, profile_name, wanted, force)
        result.computed += [name for name, computed in made.items() if computed]
        result.unchanged += [name for name, computed in made.items() if not computed]
        if failures:
            result.recorded += record(profile, result.computed)
            below = sorted(
                {name for failed in failures for name in downstream(assets, failed)} & set(wanted),
                key=list(assets).index,
            )
            lines = [f"{name}: {message}" for name, message in failures.items()]
            not_made = f"\nnot made, since they depend on it: {', '.join(below)}" if below else ""
            raise RunFailed("\n".join(lines) + not_made + "\nrun the same command again to resume from here")
    result.recorded += record(profile, result.computed)
    return result
