"""A full or read-only disk, in outputs and in state: one line with the next step, nothing lost, usable afterwards.

A small tmpfs stands for the disk. Where mounting is not permitted, a limit on the size of files does instead.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rsqa_pipeline.errors import storage_error
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialization.materialize import materialize
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import Project
from tests.state.conftest import Disk, register, remount, rsqa

NEXT_STEP = "free space, and run the same command again; what was made stands"


@contextmanager
def full(folder: Path, left: int) -> Iterator[None]:
    """A disk with ``left`` free KiB until the block ends."""
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - left * 1024, 1))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("part", ["data", "state"])
def test_an_asset_on_a_full_disk_is_made_whole_or_not_at_all(profile: Profile, disk: Disk, part: str) -> None:
    """At any number of free pages, so that every write fails once."""
    asset = assets_of(profile)["text_preferences"]
    folder = profile.data if part == "data" else profile.state
    disk(folder)
    good = materialize(profile, asset, {}, SilentLogger())
    failed = 0
    for left in (0, 4, 8, 12, 16, 24, 32, 48, 64):
        with full(folder, left):
            try:
                materialize(profile, asset, {}, SilentLogger(), force=True)
            except OSError as error:
                failed += 1
                assert str(storage_error(error)).endswith(NEXT_STEP)
            assert folder_version(good.folder) == good.manifest.data_version
            assert [path.name for path in good.folder.parent.iterdir()] == ["text_preferences"]
        again = materialize(profile, asset, {}, SilentLogger())
        assert again.reused and again.manifest.data_version == good.manifest.data_version
    assert failed > 0


def registered(profile: Profile) -> str | None:
    return register(profile).version_at("score_model", "challenger")


def fails(profile: Profile, limit: int | None = None) -> bool:
    """Registers a model in a process of its own. Whether that fails; it must then be an error of the disk."""

    def attempt() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            registered(profile)
        except Exception as error:
            known = storage_error(error)
            if known is None or "\n" in str(known) or "run the same command again" not in str(known):
                raise
            os._exit(3)

    process = multiprocessing.get_context("fork").Process(target=attempt)
    process.start()
    process.join(100)
    assert process.exitcode in (0, 3)
    return process.exitcode == 3


def test_mlflow_on_a_full_disk_keeps_what_it_recorded(profile: Profile, disk: Disk) -> None:
    disk(profile.state)
    for left in (0, 64, 512):  # a new database is larger
        with full(profile.state, left):
            assert fails(profile)
    assert not fails(profile)
    failed = []
    for left in (0, 4, 16, 64):
        with full(profile.state, left):
            failed.append(fails(profile))
    assert failed[0]
    assert not fails(profile)
    tracking = MlflowTracking(profile)
    newest = tracking.version_at("score_model", "challenger")
    assert newest is not None
    for version in ("1", newest):
        assert (tracking.download("score_model", version) / "model.safetensors").is_file()


def test_mlflow_below_a_file_limit_keeps_what_it_recorded(profile: Profile) -> None:
    assert fails(profile, limit=100_000)
    assert not fails(profile)
    fails(profile, limit=100_000)
    assert (MlflowTracking(profile).download("score_model", "1") / "model.safetensors").is_file()


def test_a_manifest_below_a_file_limit_costs_the_asset_and_nothing_else(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    path = profile.state / "manifests" / "text_preferences.jsonl"
    largest = max(file.stat().st_size for file in good.folder.rglob("*"))
    while path.stat().st_size <= largest:
        manifests(profile).append(good.manifest)
    with file_limit(path.stat().st_size + 100), pytest.raises(OSError) as caught:
        materialize(profile, asset, {}, SilentLogger(), force=True)
    assert "run the same command again" in str(storage_error(caught.value))
    assert materialize(profile, asset, {}, SilentLogger()).reused


def test_a_run_on_a_full_disk_is_one_line_and_works_once_there_is_space(
    made_project: Project, tmp_path: Path, disk: Disk
) -> None:
    project = Project(Path(shutil.copytree(made_project.root, tmp_path / "p")))
    for folder in (project.data, project.root / ".rsqa"):
        disk(folder)
    for folder, left in ((project.data, 0), (project.root / ".rsqa", 0), (project.root / ".rsqa", 96)):
        with full(folder, left):
            printed = rsqa(project, "run", "--quiet", "--force", "text_preferences", code=1)
        assert NEXT_STEP in printed and len(printed.strip().splitlines()) <= 3, printed
    assert "1 assets computed" in rsqa(project, "run", "--quiet", "--force", "text_preferences")


def test_a_read_only_disk_is_one_line(made_project: Project, tmp_path: Path, disk: Disk) -> None:
    project = Project(Path(shutil.copytree(made_project.root, tmp_path / "p")))
    folder = project.root / ".rsqa"
    disk(folder)
    remount(folder, "ro")
    printed = rsqa(project, "run", "--quiet", "text_preferences", code=1)
    assert "the file system is read-only; make it writable, and run the same command again" in printed
    remount(folder, "rw")
    assert "1 unchanged" in rsqa(project, "run", "--quiet", "text_preferences")
