"""What Dagster and MLflow recorded, read from their local databases without opening them for writing."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.services.databases import DAGSTER_CONFIG


@dataclass
class DagsterStory:
    """Runs and materializations of Dagster."""

    runs: set[str] = field(default_factory=set)
    versions: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Asset -> (run, data version) of every event, oldest first."""


@dataclass
class MlflowStory:
    """Runs and registered versions of MLflow."""

    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    """Run -> tags."""
    finished: set[str] = field(default_factory=set)
    """Runs that ended well; one that was killed has no tags of its output."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Run -> input asset -> digest of the data set."""
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    """(Model, alias) -> version."""
    versions: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict)
    """(Model, version) -> tags."""
    sources: dict[tuple[str, int], str] = field(default_factory=dict)


def dagster_story(profile: Profile) -> DagsterStory | None:
    """What this machine's Dagster instance recorded; None if there is none, or a shared one keeps it."""
    path = profile.state / "dagster/history/runs/index.db"
    if not path.is_file() or os.environ.get(DAGSTER_CONFIG):
        return None
    story = DagsterStory()
    query = """SELECT e.run_id, e.asset_key, t.value FROM event_logs e JOIN asset_event_tags t ON t.event_id = e.id
        WHERE e.dagster_event_type = 'ASSET_MATERIALIZATION' AND t.key = 'dagster/data_version' ORDER BY e.id"""
    with _reading(path) as database:
        for run, key, version in database.execute(query):
            story.versions.setdefault(json.loads(key)[-1], []).append((run, version))
    with _reading(profile.state / "dagster/history/runs.db") as database:
        story.runs = {run for (run,) in database.execute("SELECT run_id FROM runs")}
    return story


def mlflow_story(profile: Profile) -> MlflowStory | None:
    """What this machine's MLflow database recorded; None if there is none, or a server keeps it."""
    path = profile.state / "mlflow.db"
    if not path.is_file() or os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    story = MlflowStory()
    with _reading(path) as database:
        for run, status in database.execute("SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"):
            story.tags[run], story.metrics[run], story.digests[run] = {}, {}, {}
            story.finished |= {run} if status == "FINISHED" else set()
        for run, key, value in database.execute("SELECT run_uuid, key, value FROM tags"):
            story.tags.get(run, {})[key] = value
        for run, key, value in database.execute("SELECT run_uuid, key, value FROM latest_metrics"):
            story.metrics.get(run, {})[key] = value
        joined = (
            "SELECT i.destination_id, d.name, d.digest FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id"
        )
        for run, name, digest in database.execute(joined):
            story.digests.get(run, {})[name] = digest
        for name, alias, version in database.execute("SELECT name, alias, version FROM registered_model_aliases"):
            story.aliases[name, alias] = int(version)
        for name, version, source in database.execute(
            "SELECT name, version, source FROM model_versions WHERE current_stage != 'Deleted_Internal'"
        ):
            story.versions[name, int(version)], story.sources[name, int(version)] = {}, str(source)
        for name, version, key, value in database.execute("SELECT name, version, key, value FROM model_version_tags"):
            story.versions.get((name, int(version)), {})[key] = value
    return story


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or move it away and run again") from error
