"""Services that are dead, hang or answer rubbish: one line, in time, before anything is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.services import servers
from rsqa_pipeline.services.servers import refuse_silent_mlflow, refuse_silent_services
from tests.pipeline.project import ROOT, smoke_settings
from tests.state.silent_servers import silent_server

FAULTS = {"dead": "refuses connections", "hangs": "does not answer in time", "rubbish": "answers 502 with no JSON"}
POSTGRES_FAULTS = {"dead": "Connection refused", "hangs": "timeout expired", "rubbish": "received invalid response"}
COMMANDS = (["run"], ["promote"], ["models"], ["trace", "models:/score_model@challenger"], ["ui"])


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RSQA_DAGSTER_CONFIG", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=list(FAULTS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # as long as it takes a dead one to be found, here; libpq waits for two seconds at least
    monkeypatch.setattr(servers, "WAIT_SECONDS", 2)
    with silent_server(kind) as address:
        yield address


def shared_instance(folder: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folder / "dagster.yaml"
    config.write_text(f"storage: {{postgres: {storage}}}\n", encoding="utf-8")
    monkeypatch.setenv("RSQA_DAGSTER_CONFIG", str(config))


def test_an_mlflow_server_that_does_not_answer_is_named_with_what_was_found(
    kind: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{server}")
    started = time.monotonic()
    with pytest.raises(UsageError) as caught:
        refuse_silent_mlflow()
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI names http://{server}, which {FAULTS[kind]}")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("form", ["url", "parts"])
def test_a_postgres_that_does_not_answer_is_named_with_what_was_found(
    kind: str, server: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = server.split(":")
    monkeypatch.setenv("RSQA_TEST_ADDRESS", f"postgresql+psycopg2://user:secret@{server}/dagster")
    monkeypatch.setenv("RSQA_TEST_PASSWORD", "secret")
    parts = f"hostname: {host}, port: {port}, username: user, password: {{env: RSQA_TEST_PASSWORD}}, db_name: dagster"
    storage = {"url": "{postgres_url: {env: RSQA_TEST_ADDRESS}}", "parts": f"{{postgres_db: {{{parts}}}}}"}[form]
    shared_instance(tmp_path, storage, monkeypatch)
    with pytest.raises(UsageError) as caught:
        refuse_silent_services()
    assert str(caught.value).startswith(f"RSQA_DAGSTER_CONFIG names Postgres at {server}/dagster, which cannot be used")
    assert POSTGRES_FAULTS[kind] in str(caught.value)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("storage", "words"),
    [("{postgres_url: {env: RSQA_NOT_SET}}", "reads the variable RSQA_NOT_SET"), ("[", "which is not YAML")],
)
def test_a_mistake_in_the_configuration_of_an_instance_is_one_line(
    storage: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_instance(tmp_path, storage, monkeypatch)
    with pytest.raises(UsageError, match=words) as caught:
        refuse_silent_services()
    assert "\n" not in str(caught.value)


def test_the_time_that_the_user_gives_a_server_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "WAIT_SECONDS", 600)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with silent_server("hangs") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        with pytest.raises(UsageError, match="does not answer in time"):
            refuse_silent_mlflow()


@pytest.fixture
def small_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The smoke profile in a folder of its own, the current one; nothing was run there."""
    settings = smoke_settings()
    captions = tmp_path / settings["source_pairs"]["captions"]["path"]
    captions.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "data/demo/corpus/captions.csv", captions)
    (tmp_path / "configs/profiles").mkdir(parents=True)
    (tmp_path / "configs/profiles/smoke.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("profile: smoke\n", encoding="utf-8")
    (tmp_path / ".rsqa/smoke").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_that_need_a_service_say_so_and_write_nothing(
    words: list[str], small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(small_project.rglob("*"))
    with silent_server("dead") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        ended = CliRunner().invoke(app, words)
    assert isinstance(ended.exception, UsageError) and ended.exception.exit_code == 2, ended.exception
    assert "refuses connections" in str(ended.exception)
    assert sorted(small_project.rglob("*")) == before


def test_a_run_finds_a_silent_server_in_time_in_a_process_of_its_own(small_project: Path) -> None:
    words = [sys.executable, "-m", "rsqa_pipeline.cli.main", "run", "--limit", "30"]
    with silent_server("hangs") as address:
        named = {**os.environ, "MLFLOW_TRACKING_URI": f"http://{address}", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        done = subprocess.run(words, env=named, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: MLFLOW_TRACKING_URI names") and len(done.stderr.splitlines()) == 1
    assert [path.name for path in Path("configs/profiles").iterdir()] == ["smoke.yaml"]


def test_plan_and_audit_ask_no_server(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They answer from the records, whatever the variables name."""
    with silent_server("hangs") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        shared_instance(small_project, f"{{postgres_url: 'postgresql://user@{address}/dagster'}}", monkeypatch)
        planned = CliRunner().invoke(app, ["plan", "text_preferences"])
        audited = CliRunner().invoke(app, ["audit"])
    assert planned.exit_code == 0, planned.exception
    assert isinstance(audited.exception, DataError) and "no recorded run" in str(audited.exception)
