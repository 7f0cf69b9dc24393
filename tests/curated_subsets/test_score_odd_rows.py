"""``rsqa score`` on unusual rows: each is scored or quarantined with a reason; none is lost."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets.export import export
from rsqa_pipeline.profile import SourceFile
from tests.curated_subsets.random_model import save_random_model
from tests.source_pairs.generated import two_tone_png, write_image

SOUND = ["ميناء فيه سفن", "川の橋と港", "a\x07b\x1b[31m", "a plane ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score model with a context of 160 tokens on the shipped VLM, and a LLaVA file."""
    folder = tmp_path_factory.mktemp("odd")
    save_random_model(folder / "model")
    write_image(folder / "a.jpg", 1)
    (folder / "bomb.png").write_bytes(two_tone_png(30_000, 30_000))
    (folder / "data.json").write_text(json.dumps(_rows()))
    return folder


def _rows() -> list[dict[str, Any]]:
    def row(name: str, *turns: str, image: str = "a.jpg") -> dict[str, Any]:
        talk = [{"from": ("human", "gpt")[turn % 2], "value": text} for turn, text in enumerate(turns)]
        return {"id": name, "image": image, "conversations": talk}

    return [
        *(row(f"sound {number}", "<image>", text) for number, text in enumerate(SOUND)),
        row("200 turns", *["word"] * 200),
        row("long question", "word " * 1000, "yes"),
        row("long answer", "why?", "word " * 1000),
        row("blank", "why?", "\x07\u200b"),
        row("outside", "why?", "yes", image="../a.jpg"),
        row("bomb", "why?", "yes", image="bomb.png"),
        row("answers first", "why?"),
    ]


def _score(folder: Path, source: SourceFile, out: Path) -> tuple[dict[str, float], dict[str, str]]:
    words = ["score", "--model", str(folder / "model"), "--data", str(source.path), "--out", str(out)]
    words += ["--format", source.format, "--batch-size", "4", "--device", "cpu"]
    reply = CliRunner().invoke(app, [*words, "--images", source.images] if source.images else words)
    assert reply.exit_code == 0, (reply.output, reply.exception)
    scores = {row["key"]: row["score"] for row in pq.read_table(out).to_pylist()}
    faults = pq.read_table(out.with_name(f"{out.stem}.quarantine.parquet")).to_pylist()
    return scores, {fault["sample_id"]: fault["reason"] for fault in faults}


def test_odd_rows_are_scored_or_quarantined(folder: Path, tmp_path: Path) -> None:
    source = SourceFile(format="llava", path=str(folder / "data.json"))
    scores, faults = _score(folder, source, tmp_path / "scores.parquet")
    assert set(scores) | set(faults) == {row["id"] for row in _rows()} and not set(scores) & set(faults)
    assert {f"sound {number}" for number in range(len(SOUND))} <= set(scores)
    reasons = Counter(faults.values())
    assert {"empty_text": 1, "outside_root": 1, "too_large": 1, "bad_turns": 1}.items() <= reasons.items()
    assert all(math.isfinite(score) for score in scores.values())


@pytest.mark.parametrize(("form", "read_as"), [("webdataset", "webdataset"), ("hf", "hf_parquet"), ("jsonl", "jsonl")])
def test_exported_rows_get_the_same_scores(form: str, read_as: Any, folder: Path, tmp_path: Path) -> None:
    source = SourceFile(format="llava", path=str(folder / "data.json"))
    keep = [f"sound {number}" for number in range(len(SOUND))]
    export(source, keep, tmp_path / "out", form)
    images = str(folder) if form == "jsonl" else None
    again = SourceFile(format=read_as, path=str(tmp_path / "out"), images=images)
    before, _ = _score(folder, source, tmp_path / "before.parquet")
    after, faults = _score(folder, again, tmp_path / "after.parquet")
    assert not faults
    assert after == pytest.approx({key: before[key] for key in keep}, abs=1e-4)
