"""Every door leaves the same trail: a run from the Dagster UI records what the command line does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from tests.pipeline.project import Project
from tests.state.running_ui import RunningUi, running_ui

NAMES = ("benchmark_sets", "image_text_pairs", "base_models", "score_head")
"""Assets of several stages; the last is tracked in MLflow."""
_LAUNCH = """mutation($execution: ExecutionParams!) { launchRun(executionParams: $execution) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_START = {
    "sensor": """mutation($of: SensorSelector!) { startSensor(sensorSelector: $of) {
      __typename ... on Sensor { sensorState { id } } ... on PythonError { message } } }""",
    "schedule": """mutation($of: ScheduleSelector!) { startSchedule(scheduleSelector: $of) {
      __typename ... on ScheduleStateResult { scheduleState { id } } ... on PythonError { message } } }""",
}
_STOP = {
    "sensor": "mutation($id: String!) { stopSensor(id: $id) { __typename } }",
    "schedule": "mutation($id: String!) { stopRunningSchedule(id: $id) { __typename } }",
}
_RUNS = "{ runsOrError { ... on Runs { results { runId tags { key value } } } } }"
_STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@pytest.fixture(scope="module")
def twins(made_project: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """Two copies of one checkout with the same commit and the same outputs.

    To be quick, their schedule ticks every minute, and the job that it and the sensor start makes NAMES alone.
    """
    folder = tmp_path_factory.mktemp("twins")
    for name in ("line", "ui"):
        shutil.copytree(made_project.root, folder / name)
        automation = folder / name / "assets/automation.py"
        code = automation.read_text()
        for old, new in (("0 2 * * *", "* * * * *"), ("asset.stage in stages", f"asset.name in {NAMES}")):
            assert code.count(old) == 1
            code = code.replace(old, new)
        automation.write_text(code)
    return Project(folder / "line"), Project(folder / "ui")


@pytest.fixture(scope="module")
def ui(twins: tuple[Project, Project], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUi]:
    with running_ui(twins[1], tmp_path_factory.mktemp("ui")) as started:
        started.asset_names()
        yield started


def start(ui: RunningUi, names: Sequence[str]) -> str:
    """Starts a run of assets through the UI's own API and returns its id."""
    execution = {
        "selector": {
            "repositoryLocationName": "rsqa",
            "repositoryName": "__repository__",
            "jobName": "all",
            "assetSelection": [{"path": [name]} for name in names],
        },
        "mode": "default",
        "runConfigData": "{}",
    }
    launched = ui.ask(_LAUNCH, {"execution": execution})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def ended(ui: RunningUi, run: str) -> str:
    """Final status of a run."""
    for _ in range(600):
        status = str(ui.ask(_STATUS, {"run": run})["runOrError"]["status"])
        if status in ("SUCCESS", "FAILURE", "CANCELED"):
            return status
        time.sleep(0.5)
    raise AssertionError("the run did not end")


def launch(ui: RunningUi, names: Sequence[str]) -> str:
    """Runs assets from the UI and returns the final status of the run."""
    return ended(ui, start(ui, names))


def trail(project: Project) -> dict[str, Any]:
    """What a run records, without times and ids."""
    state = project.root / ".rsqa/smoke"
    client = mlflow.MlflowClient(f"sqlite:///{state}/mlflow.db")
    experiment = client.get_experiment_by_name("rsqa-smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("rsqa.role") == "parent"]
    nested = [run for run in runs if "dagster.asset" in run.data.tags]
    manifests = {
        path.stem: [
            {key: line[key] for key in ("data_version", "recipe", "metrics", "checks")}
            for line in map(json.loads, path.read_text().splitlines())
        ]
        for path in sorted((state / "manifests").glob("*.jsonl"))
    }
    return {
        "dvc.lock": (project.root / "dvc.lock").read_text(),
        "metrics": {path.name: path.read_text() for path in sorted((project.root / "metrics/smoke").glob("*.json"))},
        "manifests": manifests,
        "parents": [run.info.status for run in parents],
        "runs": sorted((run.data.tags["dagster.asset"], run.info.status, sorted(run.data.metrics)) for run in nested),
    }


def test_a_run_from_the_ui_leaves_the_records_of_the_command_line(
    twins: tuple[Project, Project], ui: RunningUi
) -> None:
    line, other = twins
    line.call("rsqa", "run", "--quiet", *NAMES)
    assert launch(ui, NAMES) == "SUCCESS"
    by_line, by_ui = trail(line), trail(other)
    for what, found in by_line.items():
        assert by_ui[what] == found, what
    assert by_ui["parents"] == ["FINISHED"]

    assert launch(ui, NAMES) == "SUCCESS"  # nothing has changed
    assert trail(other) == by_ui, "an unchanged asset leaves no run, no manifest and no entry"


@pytest.mark.parametrize(("door", "name"), [("sensor", "source_data_changed"), ("schedule", "nightly")])
def test_a_run_from_sensor_or_schedule_leaves_the_records_of_the_command_line(
    twins: tuple[Project, Project], ui: RunningUi, door: str, name: str
) -> None:
    line, other = twins
    line.call("rsqa", "run", "--quiet", *NAMES)
    assert launch(ui, NAMES) == "SUCCESS"
    for project in twins:
        with project.captions.open("a") as file:
            file.write(project.captions.read_text().splitlines()[-1].rsplit(",", 1)[0] + f",seen by the {door}\n")
    line.call("rsqa", "run", "--quiet", *NAMES)

    with started(ui, door, name) as runs:
        assert [ended(ui, run) for run in runs] == ["SUCCESS"]
    by_line, by_door = trail(line), trail(other)
    for what, found in by_line.items():
        assert by_door[what] == found, what
    assert set(by_door["parents"]) == {"FINISHED"}


@contextmanager
def started(ui: RunningUi, door: str, name: str) -> Iterator[list[str]]:
    """Switches a sensor or schedule on until it has started a run; yields the ids of its runs."""
    selector = {
        "repositoryLocationName": "rsqa",
        "repositoryName": "__repository__",
        f"{door}Name": name,
    }
    answer = next(iter(ui.ask(_START[door], {"of": selector}).values()))
    assert f"{door}State" in answer, answer
    try:
        yield _first_runs(ui, f"dagster/{door}_name", name)
    finally:
        ui.ask(_STOP[door], {"id": answer[f"{door}State"]["id"]})


def _first_runs(ui: RunningUi, tag: str, name: str) -> list[str]:
    for _ in range(360):
        runs = ui.ask(_RUNS)["runsOrError"]["results"]
        found = [run["runId"] for run in runs if {"key": tag, "value": name} in run["tags"]]
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{name} started nothing")


def test_mlflow_answers_and_foreign_hosts_are_refused(ui: RunningUi) -> None:
    assert ui.get(ui.mlflow_port, "/health") == (200, "OK")
    for port, path in ((ui.port, "/server_info"), (ui.mlflow_port, "/")):
        assert ui.get(port, path)[0] == 200
        status, _ = ui.get(port, path, host="evil.example.org")
        assert status in (400, 403), "a name that a foreign page resolves to this machine"


def test_the_sensor_fires_for_new_content_alone(made_project: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(made_project.root, project.root)
    project.call("rsqa", "run", "--quiet", "benchmark_sets", "image_text_pairs")
    first = project.captions.read_text()
    second = first.rsplit(",", 1)[0] + ",two white ships in a harbour\n"
    cursor, keys = "", list[str]()
    for text, fires in ((first, False), (second, True), (second, False), (first, True), (second, True)):
        project.captions.write_text(text)
        os.utime(project.captions)
        outcome = tick(project, cursor)
        cursor = outcome["cursor"]
        assert bool(outcome["key"]) == fires, outcome
        assert tick(project, cursor)["key"] is None, "the same content again"
        if fires:
            keys.append(outcome["key"])
            project.call("rsqa", "run", "--quiet", "benchmark_sets", "image_text_pairs")
    assert len(set(keys)) == len(keys) == 3, "data that return to an earlier version are run again"


def tick(project: Project, cursor: str) -> dict[str, Any]:
    """One evaluation of the sensor, in a process of its own in the project."""
    code = (
        "import dagster as dg, json, sys\n"
        "from assets.code_location import build\n"
        "sensor = build('smoke').get_sensor_def('source_data_changed')\n"
        "with dg.build_sensor_context(cursor=sys.argv[1] or None) as context:\n"
        "    found = sensor(context)\n"
        "    key = found.run_key if isinstance(found, dg.RunRequest) else None\n"
        "    print(json.dumps({'key': key, 'cursor': context.cursor}))\n"
    )
    done = project.call("python", "-c", code, cursor)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_jobs_hold_their_stages(settings: dict[str, Any]) -> None:
    from assets.automation import jobs

    assets = assets_of(Profile.model_validate(settings))
    graph = dg.Definitions(assets=[dg.AssetSpec(name) for name in assets]).resolve_asset_graph()
    found = {
        name: {key.path[-1] for key in job.selection.resolve(graph)}  # type: ignore[union-attr]
        for name, job in jobs(assets).items()
    }
    assert set(found) == {"all", "curate_only", "retrain", "benchmark"}
    assert found["all"] == set(assets)
    assert "subset_all" in found["curate_only"] and "clip_all" not in found["curate_only"]
    assert "score_model" in found["retrain"] and "caption_preferences" not in found["retrain"]
    assert {assets[name].stage for name in found["benchmark"]} == {"benchmarks", "report"}


def test_a_used_port_ends_the_command_at_once(made_project: Project, ui: RunningUi) -> None:
    for option in ("--port", "--mlflow-port"):
        done = made_project.call("rsqa", "ui", option, str(ui.port), check=False)
        assert done.returncode == 2 and f"{option} {ui.port} on 127.0.0.1 cannot be used" in done.stderr
