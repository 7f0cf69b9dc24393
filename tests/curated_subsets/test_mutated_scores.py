"""Damaged score files: each is selected from, or refused with the project's own error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.curated_subsets.selection.score_file import curate_data, curate_scores
from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from tests.mutations import try_mutations

BEST_HALF = SubsetRule(selector="score_model", caption_fraction=0.5, instruction_fraction=0.5)
PER_CLASS = SubsetRule(selector="score_model", caption_fraction=0.5, instruction_fraction=0.5, per="scene_class")
COLUMNS: dict[str, Any] = {
    "key": [f"r{number}" for number in range(6)],
    "score": [float(number) for number in range(6)],
    "scene_class": ["port", "port", None, "farm", "farm", "dam"],
    "image_hash": pa.nulls(6, pa.string()),
    "text_hash": pa.nulls(6, pa.string()),
}


def write(path: Path, **changed: Any) -> Path:
    columns = {**COLUMNS, **changed}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> SourceFile:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"id": f"r{number}", "image": "a.png", "text": f"{number} ships"} for number in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceFile.model_validate({"format": "jsonl", "path": str(tmp_path / "data.jsonl")})


@pytest.mark.parametrize("rule", [BEST_HALF, PER_CLASS], ids=["best half", "per class"])
def test_mutated_score_files(rule: SubsetRule, data: SourceFile, tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet")
    try_mutations(path, f"scores {rule.per}", lambda: curate_scores(path, rule, 0, tmp_path / "out"), 40)
    try_mutations(path, f"scores {rule.per} data", lambda: curate_data(path, data, rule, 0, tmp_path / "out"), 40)


@pytest.mark.parametrize(
    "changed",
    [
        {"score": ["good", "bad", "1", "2", "3", "4"]},
        {"score": [[1.0]] * 6},
        {"score": [{"a": 1.0}] * 6},
        {"score": [True, False] * 3},
        {"score": pa.array(range(6)).cast(pa.decimal128(38, 2))},
        {"score": pa.array(range(6), pa.timestamp("s"))},
        {"score": pa.nulls(6)},
        {"score": pa.array(["1.5"] * 6).dictionary_encode()},
        {"scene_class": [["port"]] * 6},
        {"scene_class": [1, 2, 3, 4, 5, 6]},
        {"scene_class": [{"a": 1}] * 6},
        {"key": [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]},
        {"key": [b"r0", b"r1", b"\xff", b"r3", b"r4", b"r5"]},
        {"key": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]},
        {"key": ["r0"] * 6},
        {"image_hash": [1, 2, 3, 4, 5, 6]},
        {"text_hash": [[1]] * 6},
    ],
    ids=lambda changed: " ".join(f"{n} {str(v)[:25].split()}" for n, v in changed.items()),
)
@pytest.mark.parametrize("rule", [BEST_HALF, PER_CLASS], ids=["best half", "per class"])
def test_columns_of_other_types(rule: SubsetRule, changed: dict[str, Any], data: SourceFile, tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", **changed)
    for use in (
        lambda: curate_scores(path, rule, 0, tmp_path / "out"),
        lambda: curate_data(path, data, rule, 0, tmp_path / "out"),
    ):
        try:
            use()
        except RsqaError as error:
            assert "\n" not in str(error)
