"""Postgres, an S3 server and an MLflow server, each a real process on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import pgserver
from botocore.client import BaseClient

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "rsqa-store"
ACCESS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Services:
    postgres: str
    """Address of the database of Dagster's instance."""
    s3: str
    mlflow: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process that runs assets is given; see docs/deploy.md."""
        return {
            **ACCESS,
            "RSQA_DAGSTER_CONFIG": str(ROOT / "deploy" / "dagster.yaml"),
            "RSQA_DAGSTER_POSTGRES": self.postgres,
            "MLFLOW_TRACKING_URI": self.mlflow,
        }

    @property
    def bucket(self) -> BaseClient:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.s3, **keys)

    def stored(self, prefix: str) -> list[str]:
        """Keys in the bucket."""
        pages = self.bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


def blocks() -> list[str]:
    """The commands of docs/deploy.md: the MLflow server, the DVC remote, a worker."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/deploy.md").read_text(encoding="utf-8"), re.DOTALL)


@contextmanager
def running_services(folder: Path) -> Iterator[Services]:
    with ExitStack() as stack:
        # Postgres runs as a user of its own if this is root, and pytest's folders are closed to others
        database = _postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))))
        stack.callback(database.cleanup)
        for name in ("dagster", "mlflow"):
            database.psql(f"CREATE DATABASE {name};")
        s3, mlflow = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
        stack.enter_context(
            _server(["moto_server", "-H", "127.0.0.1", "-p", s3.rsplit(":")[-1]], folder / "s3.log", {})
        )
        _wait(s3)
        dagster, tracking = (
            database.get_uri(name).replace("postgresql:", "postgresql+psycopg2:") for name in ("dagster", "mlflow")
        )
        found = Services(dagster, s3, mlflow)
        found.bucket.create_bucket(Bucket=BUCKET)
        named = {"MLFLOW_DATABASE": tracking, "BUCKET": BUCKET, "MLFLOW_PORT": mlflow.rsplit(":")[-1]}
        environment = {**ACCESS, **named, "MLFLOW_S3_ENDPOINT_URL": s3}
        stack.enter_context(_server(["sh", "-c", blocks()[0]], folder / "mlflow.log", environment))
        _wait(f"{mlflow}/health")
        yield found


def _postgres(folder: Path) -> pgserver.PostgresServer:
    """A running Postgres. The package gives up after 10 s, which a busy machine needs; the next call finds it."""
    for _ in range(11):
        with suppress(subprocess.TimeoutExpired):
            return pgserver.get_server(folder)
    return pgserver.get_server(folder)


@contextmanager
def _server(words: Sequence[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            env={**os.environ, "PATH": path, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(address: str) -> None:
    for _ in range(360):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")
