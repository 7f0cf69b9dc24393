"""Shared by all tests: the project's root as the current folder, one thread per worker, the shared real data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps pipeline tests on one worker, where they share a finished project."""
    for item in items:
        if item.get_closest_marker("pipeline"):
            item.add_marker(pytest.mark.xdist_group("pipeline"))


@pytest.fixture(autouse=True)
def _in_project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in profiles are relative to the project's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and reference checkpoints; tests that need it are skipped without it."""
    folder = Path(os.environ.get("RSQA_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RSQA_SHARED to a folder with rsicd/ and parity/")
    return folder
