"""State that is copied, deleted, garbled, locked, read-only or on a full disk: one line with the next step."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsqa_pipeline.dvc_files.lock import locked_versions
from rsqa_pipeline.errors import DataError, storage_error
from rsqa_pipeline.git import ask_git, commit
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import materialize
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.registration import register_if_missing
from rsqa_pipeline.services import databases
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.pipeline.project import ROOT, Project
from tests.state.conftest import register, rsqa


def test_copied_and_moved_checkouts_keep_to_themselves(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    monkeypatch.chdir(first)
    register(profile)
    shutil.copytree(first, tmp_path / "copy")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path / "copy")
    copy = register(profile)
    for version in ("1", "2"):
        assert Path(copy.download("score_model", version)).is_relative_to(tmp_path / "copy")
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    first.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert (MlflowTracking(profile).download("score_model", "1") / "model.safetensors").is_file()


def test_a_model_on_disk_is_registered_again_after_its_database_was_deleted(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    text = materialize(profile, asset, {}, SilentLogger())
    folder = assets_of(profile)["score_model"].folder(profile)
    (folder / "model").mkdir(parents=True)
    save_file({"w": torch.ones(2)}, folder / "model" / "model.safetensors")
    from rsqa_pipeline.versions import folder_version

    manifests(profile).append(replace(text.manifest, asset="score_model", data_version=folder_version(folder)))
    tracking = MlflowTracking(profile)
    register_if_missing(profile, tracking, "score_model")
    register_if_missing(profile, tracking, "score_model")
    assert tracking.version_at("score_model", "challenger") == "1"


def corrupt(path: Path) -> None:
    path.write_bytes(b"x" * 4096)


def other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffff00001111'")


@pytest.mark.parametrize(("spoil", "words"), [(corrupt, "is corrupt"), (other_version, "another version")])
def test_a_spoilt_mlflow_database_is_one_line(profile: Profile, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    database = MlflowTracking(profile).state / "mlflow.db"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    spoil(database)
    with pytest.raises(DataError, match=f"{words}.*move it away"):
        MlflowTracking(profile)


def test_a_database_locked_by_another_process_is_named(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "WAIT_SECONDS", 0.2)
    path = tmp_path / "runs.db"
    code = "import sqlite3,sys; c=sqlite3.connect('runs.db'); c.execute('create table t(a)'); c.commit();" + (
        "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="locked by another process"):
            databases.check_database(path, tmp_path)
        process.communicate("\n")
    databases.check_database(path, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"stages: [", b"stages: 3", b"stages: {a: {outs: [{path: x}]}}", b"[]", b"{}"]
)
def test_a_garbled_dvc_lock_is_one_line(profile: Profile, content: bytes) -> None:
    Path("dvc.lock").write_bytes(content)
    with pytest.raises(DataError, match=r"git checkout dvc\.lock") as caught:
        locked_versions()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"{\n", b"[]\n", b"null\n", b'{"recipe": 3}\n', b'{"asset": "a"}\n'])
def test_a_garbled_manifest_line_is_skipped_and_an_unknown_field_ignored(profile: Profile, line: bytes) -> None:
    asset = assets_of(profile)["text_preferences"]
    materialize(profile, asset, {}, SilentLogger())
    path = profile.state / "manifests" / "text_preferences.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(line + path.read_bytes().replace(b'{"asset"', b'{"later_field": 1, "asset"'))
    assert materialize(profile, asset, {}, SilentLogger()).reused


def test_without_a_git_program_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_git("status") is None and commit() == "unknown"


def test_a_file_limit_keeps_the_old_output_and_leaves_no_scratch(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            materialize(profile, asset, {}, SilentLogger(), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "run the same command again" in str(storage_error(caught.value))
    assert [path.name for path in good.folder.parent.iterdir()] == ["text_preferences"]
    assert materialize(profile, asset, {}, SilentLogger()).reused


def test_a_deleted_state_folder_is_rebuilt_without_git(made_project: Project, tmp_path: Path) -> None:
    shutil.copytree(made_project.root, tmp_path / "p", ignore=shutil.ignore_patterns(".rsqa", ".git"))
    project = Project(tmp_path / "p")
    assert str(ROOT) != str(project.root)
    assert "0 assets computed, 1 unchanged" in rsqa(project, "run", "--quiet", "text_preferences")
