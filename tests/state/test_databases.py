"""Databases of Dagster and MLflow that are corrupt, locked, read-only or gone; what is printed then works."""

from __future__ import annotations

import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assets.dagster_run import prepare_environment
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import Manifest, Recipe, manifests
from rsqa_pipeline.services import databases
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import Project
from tests.state.conftest import Disk, remount, rsqa

DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


@pytest.fixture
def project(made_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy that a test may spoil, as the current folder."""
    copy = Project(Path(shutil.copytree(made_project.root, tmp_path / "p")))
    monkeypatch.chdir(copy.root)
    for name in ("DAGSTER_HOME", "DAGSTER_DISABLE_TELEMETRY", "RSQA_PROFILE", "DVC_NO_ANALYTICS"):
        monkeypatch.setenv(name, "")  # set by `prepare_environment`
    monkeypatch.setattr(databases, "WAIT_SECONDS", 0.2)
    return copy


def overwritten(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def with_a_page_of_zeros(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)


def of_another_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffff00001111'")


def follow_advice(message: str) -> None:
    """Does what the message says, as printed."""
    command = re.search(r"move it away \((mv [^)]+)\) and run again", message)
    assert command is not None, message
    subprocess.run(shlex.split(command[1]), check=True)


@pytest.mark.parametrize("spoil", [overwritten, cut, with_a_page_of_zeros, of_another_version])
def test_a_spoilt_dagster_database_is_one_line_and_the_advice_works(
    project: Project, spoil: Callable[[Path], None]
) -> None:
    for name in DATABASES:
        database = project.root / ".rsqa/smoke/dagster" / name
        spoil(database)
        with pytest.raises(DataError, match=re.escape(str(database))) as caught:
            prepare_environment(project.profile, "smoke")
        assert "\n" not in str(caught.value)
        follow_advice(str(caught.value))
        prepare_environment(project.profile, "smoke")


def test_a_run_works_after_all_dagster_databases_were_moved_away_as_printed(project: Project) -> None:
    for name in DATABASES:
        overwritten(project.root / ".rsqa/smoke/dagster" / name)
    printed = rsqa(project, "run", "--quiet", "--force", "text_preferences", code=1)
    assert "is corrupt" in printed and len(printed.strip().splitlines()) == 2  # the error, and where the log is
    for _ in DATABASES:
        with pytest.raises(DataError) as caught:
            prepare_environment(project.profile, "smoke")
        follow_advice(str(caught.value))
    assert "1 assets computed" in rsqa(project, "run", "--quiet", "--force", "text_preferences")


@pytest.fixture
def locked(project: Project) -> Iterator[Path]:
    """A database that another process holds."""
    path = project.root / ".rsqa/smoke/dagster" / DATABASES[0]
    code = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],isolation_level=None); c.execute('BEGIN EXCLUSIVE')"
    words = [sys.executable, "-c", f"{code}; print('held', flush=True); sys.stdin.readline()", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield path
        process.communicate("\n")


def test_a_dagster_database_locked_by_another_process_is_named(project: Project, locked: Path) -> None:
    with pytest.raises(DataError, match=f"{re.escape(str(locked))} is locked by another process; wait"):
        prepare_environment(project.profile, "smoke")


def test_a_read_only_dagster_database_is_named(project: Project, disk: Disk) -> None:
    folder = project.root / ".rsqa/smoke/dagster/history"
    disk(folder)
    remount(folder, "ro")
    with pytest.raises(DataError, match=r"history/.*db cannot be written .*check mode and owner of the file"):
        prepare_environment(project.profile, "smoke")


_REGISTER = """
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.registration import register_if_missing, refuse_forged
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking, registered_version
profile = load_profile("smoke")
tracking = MlflowTracking(profile)
register_if_missing(profile, tracking, "score_model")
refuse_forged(profile, registered_version(tracking, "models:/score_model@challenger"))
print("registered", tracking.version_at("score_model", "challenger"))
"""


def test_after_the_mlflow_database_was_moved_away_as_printed_a_model_on_disk_is_registered_again(
    project: Project,
) -> None:
    """Every step in a process of its own."""
    profile = project.profile
    folder = assets_of(profile)["score_model"].folder(profile)
    (folder / "model").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model" / "model.safetensors")
    version = folder_version(folder)
    manifests(profile).append(Manifest("score_model", version, Recipe("", {}, {}, {}), {}, []))
    assert project.call(sys.executable, "-c", _REGISTER).stdout.endswith("registered 1\n")
    database = project.root / ".rsqa/smoke/mlflow.db"
    overwritten(database)
    printed = rsqa(project, "trace", "models:/score_model@challenger", code=1)
    assert "mlflow.db is corrupt" in printed and len(printed.strip().splitlines()) == 1
    follow_advice(printed)
    assert version in rsqa(project, "trace", "models:/score_model@challenger")
