"""`rsqa ui`: shows the profile's assets; Ctrl-C and SIGTERM end all its processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.pipeline.project import Project
from tests.state.running_ui import processes_with, running_ui


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_ui_lists_the_assets_and_stops_at_once(
    made_project: Project, tmp_path: Path, number: signal.Signals
) -> None:
    with running_ui(made_project, tmp_path, RSQA_TEST=str(tmp_path)) as ui:
        names = ui.asset_names()
        assert "text_preferences" in names and "curation_report" in names
        ui.process.send_signal(number)
        assert ui.process.wait(30) == 130, ui.log.read_text()
    assert "Traceback" not in ui.log.read_text()
    assert not processes_with(f"RSQA_TEST={tmp_path}")
