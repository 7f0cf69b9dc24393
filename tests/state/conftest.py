"""A profile whose cheap assets are made in an empty folder, and a real checkout with cheap assets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.profile import Profile
from tests.pipeline.project import Project, checkout, smoke_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Smoke settings, with an empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return smoke_settings()


@pytest.fixture
def profile(settings: dict[str, Any]) -> Profile:
    return Profile.model_validate(settings)


@pytest.fixture(scope="module")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A checkout in which `rsqa run text_preferences` was run; tests copy it."""
    project = checkout(tmp_path_factory.mktemp("made").resolve() / "project", captions=40)
    run = rsqa(project, "run", "--quiet", "text_preferences")
    assert "1 assets computed, 0 unchanged, 1 recorded" in run
    yield project


def rsqa(project: Project, *words: str, code: int = 0, **env: str) -> str:
    """Everything that a command printed; asserts its exit code."""
    done = project.call(sys.executable, "-m", "rsqa_pipeline.cli.main", *words, check=False, **env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr
