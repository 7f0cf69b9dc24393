"""Shared by all tests: the root as the current folder, one thread per worker, the shared real data, a browser."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


LONG = {ROOT / "tests/pipeline", ROOT / "tests/state"}
"""Folders whose files take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, so that at the end no worker waits for one."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parents))


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running Chromium: the one of `install_browser` (``make test``), or the machine's own.

    It ends with the module, since Playwright keeps an event loop running, and other tests start theirs.
    """
    from playwright.sync_api import sync_playwright

    own = Path(sys.prefix) / "browser" / "chromium"
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path is not None), None)
    environment = dict(os.environ)
    if own.is_file() and (sys.platform, platform.machine()) == ("linux", "x86_64"):
        found = str(own)
        environment |= {"LD_LIBRARY_PATH": str(own.parent / "lib"), "FONTCONFIG_PATH": str(own.parent / "fonts")}
    if found is None:
        pytest.skip(f"no browser: neither {own} (`make test` installs it) nor one of {', '.join(names)}")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=found, env=environment, args=options)
        yield browser
        browser.close()
