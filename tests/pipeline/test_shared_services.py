"""Two checkouts that share Postgres, an S3 store and MLflow run at once, and one of them is killed: nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import mlflow
import psycopg2
import pytest
import yaml

from tests.pipeline.project import Project, checkout
from tests.pipeline.shared_services import ACCESS, BUCKET, Services, blocks, running_services

pytestmark = pytest.mark.pipeline

ASSETS = (
    *("benchmark_sets", "image_text_pairs", "instruction_samples", "base_models", "caption_preferences"),
    *("instruction_preferences", "text_preferences", "score_head", "caption_score_model", "score_model"),
    "score_model_report",  # the name of an asset that is one of a stage, too, means the stage
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(tmp_path_factory.mktemp("services")) as found:
        yield found


@pytest.fixture(scope="module")
def pair(services: Services, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """Two checkouts of one commit, whose DVC remote is the S3 store."""
    folder = tmp_path_factory.mktemp("pair").resolve()
    first = checkout(folder / "first")
    first.call("sh", "-ec", blocks()[1], BUCKET=BUCKET, STORE=services.s3)
    first.commit("remote")
    shutil.copytree(first.root, folder / "second")
    return first, Project(folder / "second")


def started(project: Project, services: Services) -> subprocess.Popen[str]:
    named = {"DAGSTER_DATABASE": services.postgres, "MLFLOW": services.mlflow, "ASSETS": " ".join(ASSETS)}
    return subprocess.Popen(
        ["sh", "-ec", blocks()[2]],
        cwd=project.root,
        env={**project.env, **ACCESS, **named},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def is_being_made(project: Project, asset: str) -> bool:
    return any((project.root / "data/smoke").glob(f"*/.{asset}.scratch-*"))


def test_two_runs_at_once_and_one_killed(
    project: Project, pair: tuple[Project, Project], services: Services, tmp_path: Path
) -> None:
    undisturbed, killed = pair
    runs = [started(one, services) for one in pair]
    deadline = time.monotonic() + 900
    while not is_being_made(killed, "caption_score_model"):
        assert time.monotonic() < deadline and runs[1].poll() is None
        time.sleep(0.1)
    os.killpg(runs[1].pid, signal.SIGKILL)
    runs[1].communicate()
    resumed = started(killed, services)  # while the other one is still running
    for process in (runs[0], resumed):
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output

    recorded = [yaml.safe_load((one.root / "dvc.lock").read_text())["stages"] for one in (project, *pair)]
    assert set(recorded[1]) == set(recorded[2]) == set(ASSETS)
    for name in ASSETS:
        assert recorded[0][name]["outs"] == recorded[1][name]["outs"] == recorded[2][name]["outs"], name

    with psycopg2.connect(services.postgres.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert Counter(status for (status,) in cursor.fetchall()) == {"SUCCESS": 2, "FAILURE": 1}
        cursor.execute("SELECT asset_key FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
        made = Counter(dg.AssetKey.from_db_string(key).path[-1] for (key,) in cursor.fetchall())
    assert made == dict.fromkeys(ASSETS, 2), "what the killed run had made was not made again"

    client = mlflow.MlflowClient(services.mlflow)
    experiment = client.get_experiment_by_name("rsqa-smoke")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    trained = Counter((run.data.tags.get("dagster.asset"), run.info.status) for run in found)
    assert trained["caption_score_model", "FAILED"] == 1
    assert trained["caption_score_model", "FINISHED"] == trained["score_model", "FINISHED"] == 2
    assert not [run for run in found if run.info.status == "RUNNING"]
    weights = [key for key in services.stored("mlflow/") if key.endswith("model/model.safetensors")]
    assert len(weights) == 2, "both versions of the score model are in the store"
    assert not (undisturbed.root / ".rsqa/smoke/mlruns").exists()

    traced = undisturbed.call("rsqa", "trace", "models:/score_model@challenger", **services.environment)
    assert "score_model" in traced.stdout

    undisturbed.commit("made")
    clone = Project(tmp_path / "clone")
    undisturbed.call("git", "clone", "-q", str(undisturbed.root), str(clone.root))
    clone.call("dvc", "pull", "-q", "--allow-missing", **services.environment)
    again = clone.call("rsqa", "run", *ASSETS, **services.environment)
    assert f"0 assets computed, {len(ASSETS)} unchanged" in again.stdout + again.stderr


def test_a_config_that_is_not_there_is_one_line(project: Project) -> None:
    refused = project.call("rsqa", "run", "--force", "text_preferences", check=False, RSQA_DAGSTER_CONFIG="/none.yaml")
    assert refused.returncode == 2 and "RSQA_DAGSTER_CONFIG names /none.yaml" in refused.stderr
    assert refused.stderr.count("\n") == 1
