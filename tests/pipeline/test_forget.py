"""`rsqa forget` on a finished project: listed, decided, rebuilt, proven, and not brought back by `dvc pull`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from rsqa_pipeline.forgotten import FORGOTTEN
from tests.pipeline.project import Project

pytestmark = pytest.mark.pipeline


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    """A clone with all data."""
    subprocess.run(["git", "clone", "-q", str(project.root), str(tmp_path / "project")], check=True)
    made = Project(tmp_path / "project")
    made.call("dvc", "pull", "-q")
    return made


def samples(project: Project, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pd.read_parquet(project.data / f"source_pairs/{table}/samples.parquet").to_dict(
        "records"
    )
    return rows


def files_with(project: Project, ids: set[str]) -> set[str]:
    """Assets of which a table names one of the ids in any cell, but for refused rows; found with plain loops."""
    found = set()
    for path in project.data.rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row.get("reason") != "forgotten" and ids.intersection(map(str, row.values())):
                found.add(path.parent.name)
    return found


def findings(project: Project) -> list[tuple[str, str, str]]:
    found = json.loads(project.call("rsqa", "audit", "--json", check=False).stdout)["findings"]
    return [(finding["kind"], finding["where"], finding["detail"]) for finding in found]


def test_a_request_from_listing_to_proof(clone: Project) -> None:
    """Of an image with captions, an answer, and an image of the benchmarks."""
    corpus = [row for row in samples(clone, "image_text_pairs") if row["split"] == "corpus"]
    answer = next(row for row in samples(clone, "instruction_samples") if row["split"] == "preference")
    item = pd.read_parquet(clone.data / "source_pairs/benchmark_sets/items.parquet").iloc[0]
    targets = [corpus[0]["image_id"], answer["sample_id"], item["image_id"]]
    ids = {*targets, *(row["sample_id"] for row in corpus if row["image_id"] == targets[0]), item["item_id"]}
    before = {path: path.read_bytes() for path in (clone.root / "dvc.yaml", clone.root / "dvc.lock")}

    listed = clone.call("rsqa", "forget", *targets, "--dry-run").stdout
    assert "samples" in listed and "subset_all" in listed and "curation_report" in listed
    assert not (clone.root / FORGOTTEN).exists() and clone.call("git", "status", "--porcelain").stdout == ""

    held = files_with(clone, ids)
    assert {"image_text_pairs", "instruction_samples", "benchmark_sets", "pair_scores", "subset_all"} <= held
    decided = ("--reason", "request 17", "--who", "a.person", "--decision", "until May")
    clone.call("rsqa", "forget", *targets, *decided)
    found = findings(clone)
    assert held <= {where for kind, where, _ in found if kind == "forgotten_item"}
    stale = {where for kind, where, detail in found if kind == "stale_asset" and detail == "forgotten items changed"}
    assert {"benchmark_sets", "image_text_pairs", "instruction_samples", "caption_preferences"} <= stale
    assert "forgotten items changed" in clone.call("rsqa", "plan").stdout
    (receipt,) = (clone.root / "receipts").glob("*.json")
    facts = json.loads(receipt.read_text())
    assert facts["decision"] == "until May" and facts["remaining"] and not facts["rebuilt"]
    assert {part["id"] for part in facts["tombstones"]["of_request"]} >= ids
    texts = [turn["content"] for row in (corpus[0], answer) for turn in row["messages"] if len(turn["content"]) > 20]
    kept = [path.read_text() for path in (clone.root / FORGOTTEN, receipt, receipt.with_suffix(".md"))]
    assert texts and not [text for text in texts for content in kept if text in content]

    again = clone.call("rsqa", "forget", *targets, "--reason", "request 17", "--rebuild").stdout
    assert again.startswith("touched") and "\n0 new lines" in again and "no output holds a forgotten" in again
    assert files_with(clone, ids) == set() and findings(clone) == []
    rebuilt = json.loads(max((clone.root / "receipts").glob("*.json")).read_text())
    assert {row["asset"] for row in rebuilt["rebuilt"]} >= held and rebuilt["remaining"] == []
    changed = [row for row in rebuilt["rebuilt"] if row["asset"] in held]
    assert all(row["seconds"] >= 0 and row["before"] != row["now"] for row in changed)
    stages = yaml.safe_load((clone.root / "dvc.yaml").read_text())["stages"]
    assert "forgotten.jsonl" in stages["benchmark_sets"]["deps"]

    for path, content in before.items():
        path.write_bytes(content)
    clone.call("dvc", "pull", "-q", "--force")
    assert files_with(clone, ids) == held
    assert held <= {where for kind, where, _ in findings(clone) if kind == "forgotten_item"}
    sources = ("benchmark_sets", "image_text_pairs", "instruction_samples", "instruction_preferences")
    made = (*sources, "clip_scores", "pair_scores", "subset_all")
    clone.call("rsqa", "run", *made, "--quiet")
    assert not set(made) & files_with(clone, ids)


def test_a_lost_list_is_found(clone: Project) -> None:
    target = samples(clone, "image_text_pairs")[0]["sample_id"]
    clone.call("rsqa", "forget", target, "--reason", "request 18", "--decision", "later")
    (clone.root / FORGOTTEN).unlink()
    (receipt,) = (clone.root / "receipts").glob("*.json")
    assert [("lost_tombstone", f"receipts/{receipt.name}")] == [finding[:2] for finding in findings(clone)][:1]
