"""The command line and the Dagster UI open on one profile: one works, the other is refused, and the one that works is
killed. Nothing is lost, made wrong, or left over."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsqa_pipeline.stages import assets_of
from tests.pipeline.project import Project, checkout
from tests.state.running_ui import RunningUi, running_ui
from tests.state.test_doors import ended, start

pytestmark = pytest.mark.pipeline

KILLS = int(os.environ.get("RSQA_KILLS", "2"))
_HOLDER = re.compile(r"(?P<door>rsqa run|Dagster run).*\(process (?P<pid>\d+)")


class Command:
    """`rsqa run`."""

    name = "rsqa run"

    def __init__(self, project: Project) -> None:
        self._process = subprocess.Popen(
            ["rsqa", "run"],
            cwd=project.root,
            env=project.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def is_refused(self) -> bool:
        printed, _ = self._process.communicate(timeout=300)
        assert "Traceback" not in printed
        return self._process.returncode == 1 and "is being written by Dagster run" in printed


class InUi:
    """A run of all assets that the UI starts."""

    name = "Dagster run"

    def __init__(self, project: Project, ui: RunningUi) -> None:
        self._ui, self._run = ui, start(ui, list(assets_of(project.profile)))

    def is_refused(self) -> bool:
        return ended(self._ui, self._run) == "FAILURE"


def holder(project: Project, door: str) -> int:
    """Process that holds the profile's lock, once it is one of this door."""
    lock = project.root / ".rsqa/smoke/run.lock"
    for _ in range(600):
        found = _HOLDER.search(lock.read_text())
        if found and found["door"] == door and Path(f"/proc/{found['pid']}").exists():
            return int(found["pid"])
        time.sleep(0.1)
    raise AssertionError(f"no {door} holds the lock: {lock.read_text()}")


def sweep(project: Project, folder: Path, kills: int, moments: random.Random) -> int:
    """Kills the project's runs until all is made, at most ``kills`` times; returns how often."""
    project.call("rsqa", "run", "--quiet", "text_preferences")
    with running_ui(project, folder) as ui:
        ui.asset_names()
        doors: list[Callable[[], Command | InUi]] = [lambda: InUi(project, ui), lambda: Command(project)]
        for number in range(kills):
            working = doors[number % 2]()
            pid = holder(project, working.name)
            refused = doors[1 - number % 2]().is_refused()
            time.sleep(moments.uniform(0, 6))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return number  # all is made
            assert refused
    return kills


def left_in(project: Project) -> list[str]:
    """Every file and folder of the outputs, and what lies in the state folder."""
    outputs = [str(path.relative_to(project.data)) for path in project.data.rglob("*")]
    return sorted(outputs) + sorted(path.name for path in (project.root / ".rsqa/smoke").iterdir())


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_kills_while_both_doors_are_open_cost_nothing(project: Project, tmp_path: Path) -> None:
    moments, landed = random.Random(11), 0
    while landed < KILLS:
        folder = tmp_path.resolve() / f"{landed}"
        killed = checkout(folder / "project")
        landed += sweep(killed, folder, KILLS - landed, moments)
        killed.call("rsqa", "run")
        assert "0 assets computed" in killed.call("rsqa", "run").stdout
        assert left_in(killed) == left_in(project)
        for path in ("dvc.lock", *(f"metrics/smoke/{file.name}" for file in project.root.glob("metrics/smoke/*.json"))):
            # as YAML, which JSON is: dvc.lock lists the stages in the order in which they were made first
            assert read_yaml(killed.root / path) == read_yaml(project.root / path), path
        print(f"{landed} of {KILLS} kills", flush=True)
