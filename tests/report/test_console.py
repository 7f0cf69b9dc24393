"""The result tables of `rsqa run` fit a terminal of 80 columns, and show text as it is."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.report.console import print_results
from tests.report.synthetic_run import SyntheticRun


def test_no_interval_is_broken_at_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("demo")
    SyntheticRun(tmp_path / profile.data)
    monkeypatch.chdir(tmp_path)
    page = io.StringIO()
    print_results(profile, Console(file=page, width=80, markup=False))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for title in ("held-out preference accuracy", "true quality", "downstream", "best of N", "reward on held-out"):
        assert any(line.startswith(title) for line in lines), title
    whole = r"-?\d\.\d{2,3} \[-?\d\.\d{2,3}, -?\d\.\d{2,3}\]"
    rows = [line for line in lines if "." in line and "[" in line]
    assert len(rows) > 10 and all(re.search(whole, row) for row in rows)
    assert not any("[" in re.sub(whole, "", line) for line in rows)
