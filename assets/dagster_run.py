"""One Dagster run in this process, and the instance that it is recorded in."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.services.databases import DAGSTER_CONFIG, check_database, protect, shared_dagster_config
from rsqa_pipeline.services.servers import refuse_silent_services
from rsqa_pipeline.stages import STAGES, assets_of

from .automation import EVERYTHING
from .code_location import build
from .resources import LAUNCHED_BY

log = logging.getLogger(__name__)

_INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
storage: {sqlite: {base_dir: {env: DAGSTER_HOME}}}
concurrency: {runs: {max_concurrent_runs: 2}, pools: {default_limit: 1, granularity: op}}
"""


_CHECKOUT = "rsqa/checkout"
"""Tag of a Dagster run: the checkout that it runs in."""

_DAGSTER_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
_DAGSTER_REVISIONS = Path(dg.__file__).parent / "_core" / "storage" / "alembic" / "versions"


def prepare_environment(profile: Profile, profile_name: str) -> None:
    """Points Dagster at this profile and its own instance folder, telemetry off.

    Raises:
        DataError: a database of the instance is corrupt, locked, read-only or of another version of Dagster.
        UsageError: RSQA_DAGSTER_CONFIG names a file that cannot be read.
    """
    shared = shared_dagster_config()
    instance = _INSTANCE.encode() if shared is None else shared
    home = (profile.state / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)  # Dagster creates files of its own in it
    for name in _DAGSTER_DATABASES:
        check_database(home / name, _DAGSTER_REVISIONS)
    protect(home.rglob("*.db"))
    config = home / "dagster.yaml"
    if not config.is_file() or config.read_bytes() != instance:
        scratch = home / f"dagster.yaml.{os.getpid()}"
        scratch.write_bytes(instance)
        scratch.replace(config)
    os.environ.update(
        DAGSTER_HOME=str(home), DAGSTER_DISABLE_TELEMETRY="1", RSQA_PROFILE=profile_name, DVC_NO_ANALYTICS="1"
    )


def run_job(
    profile: Profile, profile_name: str, wanted: Sequence[str], force: bool
) -> tuple[dict[str, bool], dict[str, str]]:
    """Makes assets in one Dagster run. Called with the profile's lock held.

    Returns:
        For every asset that was made, whether it was computed; and the failures by asset.
    """
    prepare_environment(profile, profile_name)
    job = build(profile_name, force).resolve_job_def(EVERYTHING)
    with dg.DagsterInstance.get() as instance:
        for run_id in _fail_killed_runs(instance, checkout := _checkout(profile)):
            _finish_tracking(profile, list(assets_of(profile)), run_id, succeeded=False)
        outcome = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(name) for name in wanted],
            raise_on_error=False,
            tags={LAUNCHED_BY: "dvc" if "DVC_STAGE" in os.environ else "cli", _CHECKOUT: checkout},
        )
    protect((profile.state / "dagster").rglob("*.db"))
    silent = _silent_service()
    if silent is None:
        _finish_tracking(profile, wanted, outcome.run_id, outcome.success)
    else:
        log.warning("%s; the run's records there stay open", silent)
    made, failures = dict[str, bool](), dict[str, str]()
    for event in outcome.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            made[materialization.asset_key.path[-1]] = bool(materialization.metadata["computed"].value)
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            name = str(event.step_key)
            failures[name] = _message(event.step_failure_data, silent).removeprefix(f"{name}: ")
    return made, failures


def _checkout(profile: Profile) -> str:
    """Name of this checkout in a shared instance: its path, and an id that its state folder got on first use, since
    checkouts in containers may have equal paths."""
    file = profile.state / "checkout"
    if not file.is_file():
        file.write_text(secrets.token_hex(8), encoding="utf-8")
    return f"{profile.state.resolve()} {file.read_text(encoding='utf-8')}"


def _fail_killed_runs(instance: dg.DagsterInstance, checkout: str) -> list[str]:
    """Ends runs of this door that Dagster still believes alive, and frees their pool slots; returns their ids.

    Called with the lock held, so a run that has not finished was killed; its slot would block the pool forever. In a
    shared instance this holds for the runs of this checkout only.
    """
    alive = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING],
        tags={_CHECKOUT: checkout} if os.environ.get(DAGSTER_CONFIG) else {},
    )
    killed = [run for run in instance.get_runs(alive) if LAUNCHED_BY in run.tags]
    for run in killed:
        instance.report_run_failed(run, "the process was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in killed]


def _finish_tracking(profile: Profile, wanted: Sequence[str], run_id: str, succeeded: bool) -> None:
    assets = assets_of(profile)
    if any(STAGES[assets[name].stage].tracked for name in wanted):
        from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking  # seconds to import

        MlflowTracking(profile).finish(run_id, succeeded)


def _silent_service() -> str | None:
    """What is wrong with a service that no longer answers; None if all do."""
    try:
        refuse_silent_services()
    except UsageError as error:
        return str(error)
    return None


def _message(failure: Any, silent: str | None) -> str:
    """What a user can act on; of a fault in the code its first cause and last frame.

    Args:
        silent: what is wrong with a service that no longer answers.
    """
    if failure.user_failure_data is not None:
        return str(failure.user_failure_data.description)
    causes = [failure.error]
    while causes[-1].cause is not None:
        causes.append(causes[-1].cause)
    if silent is not None and any(error.cls_name == "MlflowException" for error in causes):
        return silent
    error = causes[-1]
    return error.message.strip() + "\n" + "".join(error.stack[-1:]).rstrip()
