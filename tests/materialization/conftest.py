"""Settings of a profile in an empty folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.project import smoke_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> dict[str, Any]:
    """Smoke settings, with an empty folder as the current one and 40 captions in it."""
    settings = smoke_settings()
    rows = (project_root / settings["source_pairs"]["captions"]["path"]).read_text().splitlines(keepends=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("".join(rows[:41]))
    settings["source_pairs"]["captions"]["path"] = "captions.csv"
    return settings
