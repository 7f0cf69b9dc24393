"""Runs assets through Dagster in this process, and records what they made with DVC."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.scm import SCMError
from dvc.stage import PipelineStage

from rsqa_pipeline.databases import check_database, protect
from rsqa_pipeline.dvc_lock import locked_versions, rebuild_manifests
from rsqa_pipeline.errors import DataError, RsqaError
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import current_manifest, writing
from rsqa_pipeline.profile import Profile, default_profile
from rsqa_pipeline.progress import report
from rsqa_pipeline.stages import STAGES, assets_of, downstream
from rsqa_pipeline.staleness import stale_assets
from rsqa_pipeline.versions import folder_version

from .automation import EVERYTHING
from .definitions import build

_INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
storage: {sqlite: {base_dir: {env: DAGSTER_HOME}}}
concurrency: {runs: {max_concurrent_runs: 2}, pools: {default_limit: 1, granularity: op}}
"""


_DAGSTER_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_DAGSTER_REVISIONS = Path(dg.__file__).parent / "_core" / "storage" / "alembic" / "versions"
_LAUNCHED_BY = "rsqa/launched_by"


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
    prepare_environment(profile, profile_name)
    if recorded_by_dvc(profile):
        rebuild_manifests(profile_name, profile)
    stale = {asset.name: asset for asset in stale_assets(profile)}
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
        failures = _run(profile, profile_name, wanted, force, result)
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


def prepare_environment(profile: Profile, profile_name: str) -> None:
    """Points Dagster at this profile and its own instance folder, telemetry off.

    Raises:
        DataError: a database of the instance is corrupt, locked, read-only or of another version of Dagster.
    """
    home = (profile.state / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # Dagster creates files of its own in it
    for name in _DAGSTER_DATABASES:
        check_database(home / name, _DAGSTER_REVISIONS)
    protect(home.rglob("*.db"))
    config = home / "dagster.yaml"
    if not config.is_file() or config.read_bytes() != _INSTANCE.encode():
        scratch = home / f"dagster.yaml.{os.getpid()}"
        scratch.write_text(_INSTANCE, encoding="utf-8")
        scratch.replace(config)
    os.environ.update(
        DAGSTER_HOME=str(home), DAGSTER_DISABLE_TELEMETRY="1", RSQA_PROFILE=profile_name, DVC_NO_ANALYTICS="1"
    )


def recorded_by_dvc(profile: Profile) -> bool:
    """Whether ``dvc.yaml`` is about this very profile; others are traced by their manifests alone."""
    return profile.name == default_profile() and Path("dvc.yaml").is_file()


def _run(profile: Profile, profile_name: str, wanted: list[str], force: bool, result: LaunchResult) -> dict[str, str]:
    """One Dagster run; fills in ``result`` and returns the failures by asset."""
    job = build(profile_name, force).resolve_job_def(EVERYTHING)
    with dg.DagsterInstance.get() as instance:
        _fail_killed_runs(instance)
        outcome = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(name) for name in wanted],
            raise_on_error=False,
            tags={_LAUNCHED_BY: "dvc" if "DVC_STAGE" in os.environ else "cli"},
        )
    protect((profile.state / "dagster").rglob("*.db"))
    _finish_tracking(profile, wanted, outcome.run_id, outcome.success)
    failures: dict[str, str] = {}
    for event in outcome.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            name = materialization.asset_key.path[-1]
            (result.computed if materialization.metadata["computed"].value else result.unchanged).append(name)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures[str(event.step_key)] = _message(event.step_failure_data.error)
    return failures


def _fail_killed_runs(instance: dg.DagsterInstance) -> None:
    """Ends runs of this door that Dagster still believes alive, and frees their pool slots.

    Called with the lock held, so a run that has not finished was killed; its slot would block the pool forever.
    """
    alive = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(alive):
        if _LAUNCHED_BY in run.tags:
            instance.report_run_failed(run, "the process was killed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _finish_tracking(profile: Profile, wanted: Sequence[str], run_id: str, succeeded: bool) -> None:
    assets = assets_of(profile)
    if any(STAGES[assets[name].stage].tracked for name in wanted):
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking  # seconds to import

        MlflowTracking(profile).finish(run_id, succeeded)


def _message(error: Any) -> str:
    """The first cause's own words, without Dagster's wrapping; a fault in the code keeps its last frame."""
    while error.cause is not None:
        error = error.cause
    return error.message.strip() + ("" if "RsqaError" in error.message else "\n" + "".join(error.stack[-1:]).rstrip())


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
    logging.getLogger("dvc").setLevel(logging.ERROR)  # a line for each asset says nothing new
    result.recorded.extend(sorted(changed, key=list(assets).index))
    if not changed:
        return
    try:
        _commit(result.recorded)
    except DvcException as error:
        raise DataError(
            f"the outputs are made, but DVC could not record them ({' '.join(str(error).split())}); restore dvc.yaml "
            "and dvc.lock (`git checkout dvc.yaml dvc.lock`), and run the same command again"
        ) from error


def _commit(names: Sequence[str]) -> None:
    """As `dvc commit --force` for each, but dvc.yaml and dvc.lock, slow to parse, are read and written once."""
    with _repository() as repo, lock_repo(repo):
        by_name = {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}
        stages = [by_name[name] for name in names]
        for stage in stages:
            stage.save()
            stage.commit()
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


def _repository() -> Repo:
    """The DVC repository of the current folder, also where it is not in a git checkout."""
    try:
        return Repo(".")
    except SCMError:
        return Repo(".", config={"core": {"no_scm": True}})
