"""`rsqa ui`: shows the profile's assets, and Ctrl-C ends all its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.pipeline.project import Project

_QUERY = {"query": "{ assetNodes { assetKey { path } } }"}


def test_the_ui_lists_the_assets_and_stops_at_once(made_project: Project, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "rsqa_pipeline.cli.main", "ui", "--port", str(port)]
    mark = f"RSQA_TEST={tmp_path}"
    env = {**made_project.env, "RSQA_TEST": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        ui = subprocess.Popen(words, cwd=made_project.root, env=env, stdout=log, stderr=log)
    try:
        names = asset_names(port, ui)
        assert "text_preferences" in names and "curation_report" in names
    finally:
        ui.send_signal(signal.SIGINT)
    assert ui.wait(30) == 130, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not processes_with(mark)


def asset_names(port: int, ui: subprocess.Popen[bytes]) -> set[str]:
    """Names of the assets that the server knows, as soon as it answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps(_QUERY).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(240):
        assert ui.poll() is None
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found = {node["assetKey"]["path"][-1] for node in json.load(answer)["data"]["assetNodes"]}
        except OSError:
            found = set()
        if found:  # none while the code location is being loaded
            return found
        time.sleep(0.5)
    raise AssertionError("the server does not answer")


def processes_with(mark: str) -> list[str]:
    """Command lines of living processes whose environment has this entry."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
