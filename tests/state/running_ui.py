"""A real `rsqa ui` on free ports."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.project import Project

_NAMES = "{ assetNodes { assetKey { path } } }"


@dataclass(frozen=True)
class RunningUi:
    process: subprocess.Popen[bytes]
    port: int
    mlflow_port: int
    log: Path

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answer of Dagster's API."""
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        data: dict[str, Any] = found["data"]
        return data

    def get(self, port: int, path: str, host: str | None = None) -> tuple[int, str]:
        """Status and body of a request, under a host name of one's choice."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def asset_names(self) -> set[str]:
        """Names of the assets that the UI knows, as soon as both servers answer."""
        for _ in range(480):
            assert self.process.poll() is None, self.log.read_text()
            try:
                found = {node["assetKey"]["path"][-1] for node in self.ask(_NAMES)["assetNodes"]}
                if found and self.get(self.mlflow_port, "/health")[0] == 200:
                    return found  # none while the code location is being loaded
            except OSError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"the servers do not answer\n{self.log.read_text()}")


def free_ports(count: int) -> list[int]:
    """Different TCP ports of this machine that nobody uses."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def running_ui(project: Project, folder: Path, **env: str) -> Iterator[RunningUi]:
    """Starts `rsqa ui`; its ports are those that it prints. Ends it by Ctrl-C.

    Two servers that are started at the same moment may choose the same default port, so each one is given its own.
    """
    log = folder / "log"
    ports = map(str, free_ports(2))
    words = [sys.executable, "-m", "rsqa_pipeline.cli.main", "ui", "--port", next(ports), "--mlflow-port", next(ports)]
    with log.open("w") as output:
        process = subprocess.Popen(
            words, cwd=project.root, env={**project.env, **env, "PYTHONUNBUFFERED": "1"}, stdout=output, stderr=output
        )
    try:
        yield RunningUi(process, *_ports(process, log), log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    for _ in range(480):
        lines = log.read_text().splitlines()
        found = [int(line.rsplit(":", 1)[1]) for line in lines if line.startswith(("Dagster: http", "MLflow:  http"))]
        if len(found) == 2:
            return found[0], found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    raise AssertionError(log.read_text())


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
