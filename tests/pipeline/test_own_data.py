"""The example of docs/own_data.md as it stands: a profile from a user's own file, run to the curated subsets."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.profile import load_profile
from tests.pipeline.project import ROOT, checkout

pytestmark = pytest.mark.pipeline


def write_pairs(folder: Path, rows: int = 60) -> None:
    """``pairs.csv`` and ``images``: noise with captions that name a count, a class and a place."""
    draw = random.Random(1)
    (folder / "images").mkdir(parents=True)
    lines = ["image,text"]
    for number in range(rows):
        Image.frombytes("RGB", (48, 48), draw.randbytes(48 * 48 * 3)).save(folder / f"images/{number}.png")
        things = draw.choice(["planes at an airport", "ships in a harbour", "houses near a road", "cars on a bridge"])
        lines.append(f"{number}.png,{draw.choice(['two', 'three', 'many'])} white {things} number {number}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


def example(folder: Path) -> list[list[str]]:
    """The commands of the page's first code block, with ``/data`` where the test's data is."""
    text = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [shlex.split(line.replace("/data/", f"{folder}/"), comments=True) for line in block[1].splitlines()]


def test_the_example_runs_to_the_curated_subsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "own")
    project = checkout(tmp_path / "project")
    made, run = example(tmp_path / "own")
    assert "csv: 60 captions read" in project.call(*made).stdout
    shown = project.call(*run).stdout
    assert "assets computed" in shown
    monkeypatch.chdir(project.root)
    profile = load_profile("mine")
    assert profile.source_pairs.instructions is None and profile.source_pairs.benchmarks is None
    corpus = pq.read_table(profile.data / "curated_subsets/subset_all/ids.parquet").num_rows
    kept = pq.read_table(profile.data / "curated_subsets/subset_score_model_p30/ids.parquet").num_rows
    assert corpus > kept == round(0.3 * corpus)
    assert max(len(line) for line in shown.splitlines() if "log: " not in line) <= 80
