"""The result tables of `rsqa run` fit a terminal of 80 columns, and show text as it is."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.report.console import print_results
from rsqa_pipeline.source_pairs.source_notes import SourceNotes
from rsqa_pipeline.stages import assets_of
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
    assert "best of 16 (56 tokens per item, KL 1.84): score model saturated from N = 8" in lines
    whole = r"-?\d\.\d{2,3} \[-?\d\.\d{2,3}, -?\d\.\d{2,3}\]"
    rows = [line for line in lines if "." in line and "[" in line]
    assert len(rows) > 10 and all(re.search(whole, row) for row in rows)
    assert not any("[" in re.sub(whole, "", line) for line in rows)


def test_what_was_assumed_about_a_source_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("demo")
    SyntheticRun(tmp_path / profile.data)
    monkeypatch.chdir(tmp_path)
    captions, items = (assets_of(profile)[name].folder(profile) for name in ("image_text_pairs", "benchmark_sets"))
    for folder in (captions, items):
        folder.mkdir(parents=True, exist_ok=True)
    SourceNotes("pairs[1].json", "training rows", 12, 12, captions_from_prompts=9).write(captions)
    SourceNotes("test.json", "test rows", 40, rows_without_split=3).write(items)
    page = io.StringIO()
    print_results(profile, Console(file=page, width=1000))
    printed = [line for line in page.getvalue().splitlines() if "pairs[1].json" in line or "test.json" in line]
    assert [line.partition(" (")[0] for line in printed] == [
        "benchmark_sets: test.json: 3 of 40 rows name no split; 3 rows are taken as test rows",
        "image_text_pairs: pairs[1].json: no row names a split; 12 rows are taken as training rows",
        "image_text_pairs: pairs[1].json: 9 answers to a known prompt for a description are taken as captions",
    ]
