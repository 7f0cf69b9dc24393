"""A profile whose cheap assets are made in an empty folder, and a real checkout with cheap assets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from tests.pipeline.project import Project, checkout, smoke_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Smoke settings, with an empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return smoke_settings()


@pytest.fixture
def profile(settings: dict[str, Any]) -> Profile:
    return Profile.model_validate(settings)


@pytest.fixture(scope="session")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A checkout in which `rsqa run text_preferences` was run; tests copy it, or leave it as it is."""
    project = checkout(tmp_path_factory.mktemp("made").resolve() / "project", captions=40)
    run = rsqa(project, "run", "--quiet", "text_preferences")
    assert "1 assets computed, 0 unchanged, 1 recorded" in run
    yield project


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


def remount(disk: Path, mode: str) -> None:
    """Makes a mounted file system read-only (``ro``) or writable (``rw``)."""
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def rsqa(project: Project, *words: str, code: int = 0, **env: str) -> str:
    """Everything that a command printed; asserts its exit code."""
    done = project.call(sys.executable, "-m", "rsqa_pipeline.cli.main", *words, check=False, **env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def register(profile: Profile) -> MlflowTracking:
    """Registers a model of 64 weights, as a run does."""
    tracking, weights = MlflowTracking(profile), Path("weights")
    weights.mkdir(exist_ok=True)
    save_file({"w": torch.ones(64)}, weights / "model.safetensors")
    with tracking.asset_run("score_model", "run-1", {}) as logger:
        logger.log_model("score_model", weights)
        logger.record_output("0" * 32 + ".dir", {})
    return tracking
