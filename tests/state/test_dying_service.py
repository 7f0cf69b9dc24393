"""An MLflow server that dies in the middle of a run: one line, nothing lost, and the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipeline.project import Project
from tests.state.running_ui import free_ports

TRACKED = "score_head"
MADE = ("benchmark_sets", "image_text_pairs", "base_models")
WORDS = [sys.executable, "-m", "rsqa_pipeline.cli.main", "run", *MADE, TRACKED]


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real server on loopback; its database stays in ``folder``."""
    folder.mkdir(exist_ok=True)
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    words = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(480):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield process
    finally:
        process.kill()
        subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
        process.wait(60)


def test_a_run_survives_the_death_of_its_mlflow_server(made_project: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(made_project.root, project.root)
    (port,) = free_ports(1)
    named = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    }
    with mlflow_server(tmp_path / "server", port) as server:
        run = subprocess.Popen(
            WORDS,
            cwd=project.root,
            env={**project.env, **named, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.stdout is not None
        printed = []
        for line in run.stdout:
            printed.append(line)
            if line.startswith("[3/4] base_models"):  # score_head is about to start
                server.kill()
                subprocess.run(["pkill", "-9", "-P", str(server.pid)], check=False)
        assert run.wait(300) == 1, "".join(printed)
    output = "".join(printed)
    assert "Traceback" not in output, output
    assert f"{TRACKED}: MLFLOW_TRACKING_URI names http://127.0.0.1:{port}" in output
    assert "refuses connections" in output and "run the same command again" in output
    assert "base_models" in (project.root / "dvc.lock").read_text(), "what was made is recorded"
    assert TRACKED not in (project.root / "dvc.lock").read_text()

    with mlflow_server(tmp_path / "server", port):
        done = project.call(*WORDS, **named)
    assert "1 assets computed, 3 unchanged" in done.stdout
    assert TRACKED in (project.root / "dvc.lock").read_text()
