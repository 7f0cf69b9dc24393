"""Ctrl-C and SIGTERM stop a run within seconds, children too, and the same command resumes it."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rsqa_pipeline.stages import assets_of
from tests.pipeline.project import Project, checkout

pytestmark = pytest.mark.pipeline

MAX_SECONDS = 5.0


def processes_of(root: Path) -> list[int]:
    """Processes whose working folder is the project."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == root:
                found.append(int(folder.name))
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def stop_after(project: Project, seconds: float, number: int) -> tuple[int, float, str]:
    """Exit code, seconds from the signal to the end, and what the run printed."""
    process = subprocess.Popen(
        ["rsqa", "run"],
        cwd=project.root,
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    sent = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    return process.returncode, time.monotonic() - sent, output


def test_a_stopped_run_ends_at_once_and_is_resumed(project: Project, tmp_path: Path) -> None:
    """Ten moments; then the run to the end gives what the undisturbed one gave."""
    stopped = checkout(tmp_path.resolve() / "project")
    moments = random.Random(3)
    for number in (signal.SIGINT, signal.SIGTERM) * 5:
        code, seconds, output = stop_after(stopped, moments.uniform(4, 14), number)
        assert code == 130, output
        assert seconds < MAX_SECONDS, seconds
        assert "run the same command again to resume" in output and "Traceback" not in output
        assert processes_of(stopped.root) == []
    resumed = stopped.call("rsqa", "run").stdout
    finished = [name for name in assets_of(stopped.profile) if f" {name} " in resumed]
    assert finished and "curation_report" in finished
    assert "0 assets computed" in stopped.call("rsqa", "run").stdout
    assert (stopped.root / "dvc.lock").read_text() == (project.root / "dvc.lock").read_text()
