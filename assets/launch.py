"""Runs assets through Dagster in this process, and records what they made with DVC."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rsqa_pipeline.asset_names import downstream
from rsqa_pipeline.dvc_lock import locked_versions, rebuild_manifests
from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import current_manifest, writing
from rsqa_pipeline.profile import Profile, default_profile
from rsqa_pipeline.progress import report
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.staleness import stale_assets
from rsqa_pipeline.versions import folder_version


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
            _record(profile, result)
            below = sorted(
                {name for failed in failures for name in downstream(assets, failed)} & set(wanted),
                key=list(assets).index,
            )
            lines = [f"{name}: {message}" for name, message in failures.items()]
            not_made = f"\nnot made, since they depend on it: {', '.join(below)}" if below else ""
            raise RunFailed("\n".join(lines) + not_made + "\nrun the same command again to resume from here")
    _record(profile, result)
    return result


def recorded_by_dvc(profile: Profile) -> bool:
    """Whether ``dvc.yaml`` is about this very profile; others are traced by their manifests alone."""
    return profile.name == default_profile() and Path("dvc.yaml").is_file()


def _record(profile: Profile, result: LaunchResult) -> None:
    """Writes every output that stands as ``rsqa run`` made it to ``dvc.lock``.

    Not under ``dvc repro``, which records by itself and holds DVC's locks meanwhile.
    """
    if "DVC_STAGE" in os.environ or not recorded_by_dvc(profile):
        return
    locked, assets = locked_versions(), assets_of(profile)
    store = manifests(profile)
    changed = [
        name
        for name, asset in assets.items()
        if asset.folder(profile).is_dir()
        and locked.get(name) != folder_version(asset.folder(profile))
        and current_manifest(profile, asset, store) is not None
    ]
    changed += [name for name in result.computed if name not in changed]  # same output, but code or settings changed
    result.recorded.extend(sorted(changed, key=list(assets).index))
    if changed:
        from .dvc_commit import commit_outputs  # a second to import

        commit_outputs(result.recorded)
