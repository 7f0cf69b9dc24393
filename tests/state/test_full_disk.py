"""A full or read-only disk, in outputs and in state: one line with the next step, nothing lost, usable afterwards.

A small tmpfs stands for the disk. Where mounting is not permitted, a limit on the size of files does instead.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsqa_pipeline.errors import storage_error
from rsqa_pipeline.lineage.manifest import manifests
from rsqa_pipeline.materialize import materialize
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from rsqa_pipeline.tracking.run_logger import SilentLogger
from rsqa_pipeline.versions import folder_version
from tests.pipeline.project import Project
from tests.state.conftest import rsqa

NEXT_STEP = "free space, and run the same command again; what was made stands"
Disk = Callable[[Path], None]


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Moves a folder to a file system of 24 MiB."""
    mounted: list[Path] = []

    def move(folder: Path) -> None:
        aside = folder.with_name(f"{folder.name}.aside")
        if folder.exists():
            folder.rename(aside)
        folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True)
        if done.returncode != 0:
            folder.rmdir()
            pytest.skip(f"mounting is not permitted: {done.stderr.decode().strip()}")
        mounted.append(folder)
        if aside.exists():
            shutil.copytree(aside, folder, dirs_exist_ok=True)
            shutil.rmtree(aside)

    yield move
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


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
    tracking, weights = MlflowTracking(profile), Path("weights")
    weights.mkdir(exist_ok=True)
    save_file({"w": torch.ones(64)}, weights / "model.safetensors")
    with tracking.asset_run("score_model", "run-1", {}) as logger:
        logger.log_model("score_model", weights)
        logger.record_output("0" * 32 + ".dir", {})
    return tracking.version_at("score_model", "challenger")


def test_mlflow_on_a_full_disk_keeps_what_it_recorded(profile: Profile, disk: Disk) -> None:
    disk(profile.state)
    failed = 0
    for left in (0, 64, 512):
        with full(profile.state, left):
            failed += fails_in_one_line(lambda: registered(profile))
    assert failed == 3  # a new database is larger
    assert registered(profile) == "1"
    for left in (0, 4, 16, 64):
        with full(profile.state, left):
            failed += fails_in_one_line(lambda: registered(profile))
    assert failed > 3
    tracking = MlflowTracking(profile)
    assert (tracking.download("score_model", "1") / "model.safetensors").is_file()
    newest = registered(profile)
    assert newest is not None and tracking.download("score_model", newest).is_dir()


def fails_in_one_line(action: Callable[[], object]) -> bool:
    """Whether it fails; asserts that it then fails with an error that is known to be the disk's."""
    try:
        action()
    except Exception as error:
        known = storage_error(error)
        assert known is not None, repr(error)
        assert "run the same command again" in str(known) and "\n" not in str(known)
        return True
    return False


def test_mlflow_below_a_file_limit_keeps_what_it_recorded(profile: Profile) -> None:
    with file_limit(100_000):
        assert fails_in_one_line(lambda: registered(profile))
    assert registered(profile) == "1"
    with file_limit(100_000):
        fails_in_one_line(lambda: registered(profile))
    assert (MlflowTracking(profile).download("score_model", "1") / "model.safetensors").is_file()


def test_a_manifest_below_a_file_limit_costs_the_asset_and_nothing_else(profile: Profile) -> None:
    asset = assets_of(profile)["text_preferences"]
    good = materialize(profile, asset, {}, SilentLogger())
    path = profile.state / "manifests" / "text_preferences.jsonl"
    largest = max(file.stat().st_size for file in good.folder.rglob("*"))
    while path.stat().st_size <= largest:
        manifests(profile).append(good.manifest)
    with file_limit(path.stat().st_size + 100):
        assert fails_in_one_line(lambda: materialize(profile, asset, {}, SilentLogger(), force=True))
    assert materialize(profile, asset, {}, SilentLogger()).reused


@pytest.mark.parametrize(("part", "left"), [("data", 0), ("state", 0), ("state", 96)])
def test_a_run_on_a_full_disk_is_one_line_and_works_once_there_is_space(
    made_project: Project, tmp_path: Path, disk: Disk, part: str, left: int
) -> None:
    project = Project(Path(shutil.copytree(made_project.root, tmp_path / "p")))
    folder = project.data if part == "data" else project.root / ".rsqa"
    disk(folder)
    with full(folder, left):
        printed = rsqa(project, "run", "--quiet", "--force", "text_preferences", code=1)
    assert NEXT_STEP in printed and len(printed.strip().splitlines()) <= 3, printed
    assert "1 assets computed" in rsqa(project, "run", "--quiet", "--force", "text_preferences")


def test_a_read_only_disk_is_one_line(made_project: Project, tmp_path: Path, disk: Disk) -> None:
    project = Project(Path(shutil.copytree(made_project.root, tmp_path / "p")))
    folder = project.root / ".rsqa"
    disk(folder)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    printed = rsqa(project, "run", "--quiet", "text_preferences", code=1)
    assert "the file system is read-only; make it writable, and run the same command again" in printed
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    assert "1 unchanged" in rsqa(project, "run", "--quiet", "text_preferences")
