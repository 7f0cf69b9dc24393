"""Each suite accepts a good table of its record type and fails on each inserted fault."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rsqa_pipeline.data_quality.suites import SUITES, validate
from rsqa_pipeline.records import (
    BENCHMARK_ITEM,
    COMPONENT,
    CONTAMINATION,
    IMAGE_TEXT_SAMPLE,
    PREFERENCE_PAIR,
    QUARANTINE,
    SCORED_SAMPLE,
    SUBSET,
    sha256,
    write_table,
)

A, B, C = (sha256(letter) for letter in "abc")
USER = {"role": "user", "content": "How many ships are there?"}
ANSWER = {"role": "assistant", "content": "3"}

SAMPLE = {
    "image_id": A, "image": "images.tar#512+9", "source": "human", "split": "corpus", "scene_class": None,
}  # fmt: skip
PAIR = {
    "image_id": A, "image": "images.tar#512+9", "family": "close_ended", "context": [USER], "chosen": "3",
    "rejected": "5", "chosen_source": "reference", "rejected_source": "vlm", "judge": "reference", "split": "train",
}  # fmt: skip
ITEM = {"image_id": A, "image": "images.tar#512+9", "scene_class": "port"}

GOOD: dict[str, tuple[pa.Schema, list[dict[str, Any]]]] = {
    "image_text_sample": (
        IMAGE_TEXT_SAMPLE,
        [
            {**SAMPLE, "sample_id": A, "messages": [ANSWER], "task": "caption", "true_quality": 4.5},
            {**SAMPLE, "sample_id": B, "messages": [USER, ANSWER], "task": "count", "true_quality": None},
        ],
    ),
    "preference_pair": (
        PREFERENCE_PAIR,
        [
            {**PAIR, "pair_id": A},
            {**PAIR, "pair_id": B, "family": "caption", "context": [], "chosen_mark": 5.0, "rejected_mark": 1.0},
            {**PAIR, "pair_id": C, "family": "text", "image": None, "image_id": None},
        ],
    ),
    "scored_sample": (SCORED_SAMPLE, [{"sample_id": A, "score": -3.5, "model_version": "5be1"}]),
    "subset": (SUBSET, [{"sample_id": A, "kind": "caption"}, {"sample_id": B, "kind": "instruction"}]),
    "benchmark_item": (
        BENCHMARK_ITEM,
        [
            {**ITEM, "item_id": "c-1", "task": "classification", "answer": "port"},
            {**ITEM, "item_id": "r-1", "task": "retrieval", "captions": ["a port ."]},
            {**ITEM, "item_id": "p-1", "task": "presence", "question": "Is this a port?", "answer": "yes"},
            {**ITEM, "item_id": "m-1", "task": "choice", "question": "?", "answer": "A", "choices": ["x", "y"]},
            {**ITEM, "item_id": "g-1", "task": "grounding", "question": "?", "boxes": [[0.0, 1.0, 2.0, 3.0]]},
        ],
    ),
    "component": (
        COMPONENT,
        [
            {"image_id": A, "component": A, "kept": True},
            {
                "image_id": B,
                "component": A,
                "kept": False,
                "other_image_id": A,
                "kind": "perceptual",
                "similarity": 0.9,
            },
        ],
    ),
    "contamination": (
        CONTAMINATION,
        [{"sample_id": A, "benchmark": "benchmark_sets", "item_id": "c-1", "kind": "near_image", "similarity": 0.9}],
    ),
    "quarantine": (
        QUARANTINE,
        [{"asset": "image_text_pairs", "sample_id": "a.jpg/0", "reason": "empty_text", "detail": "no text"}],
    ),
}

MAY_BE_EMPTY = ("quarantine", "contamination")

BAD: list[tuple[str, int, dict[str, Any], str]] = [
    ("image_text_sample", 1, {"sample_id": A}, "unique"),
    ("image_text_sample", 1, {"sample_id": None}, "null"),
    ("image_text_sample", 0, {"image_id": "41"}, "regex"),
    ("image_text_sample", 0, {"image": None}, "null"),
    ("image_text_sample", 0, {"split": "heldout"}, "set"),
    ("image_text_sample", 0, {"task": "poem"}, "set"),
    ("image_text_sample", 0, {"messages": []}, "roles"),
    ("image_text_sample", 1, {"messages": [ANSWER, USER]}, "roles"),
    ("image_text_sample", 1, {"messages": [USER, {"role": "assistant", "content": " "}]}, "messages_text"),
    ("image_text_sample", 0, {"true_quality": 0.5}, "true_quality"),
    ("preference_pair", 0, {"rejected": "3"}, "chosen_is_rejected"),
    ("preference_pair", 0, {"rejected": ""}, "rejected"),
    ("preference_pair", 1, {"chosen_mark": 6.0}, "chosen_mark"),
    ("preference_pair", 0, {"image": None}, "image"),
    ("preference_pair", 0, {"family": "odd"}, "family"),
    ("preference_pair", 0, {"split": "corpus"}, "split"),
    ("preference_pair", 1, {"pair_id": A}, "unique"),
    ("preference_pair", 1, {"rejected_mark": 5.0}, "marks_in_order"),
    ("preference_pair", 0, {"image": "images.tar#512+10"}, "image_is_there"),
    ("preference_pair", 0, {"image": "gone.png"}, "image_is_there"),
    ("preference_pair", 0, {"split": "heldout"}, "sides_of_image"),
    ("scored_sample", 0, {"score": None}, "score"),
    ("scored_sample", 0, {"score": float("inf")}, "score"),
    ("scored_sample", 0, {"model_version": None}, "model_version"),
    ("subset", 1, {"sample_id": A}, "unique"),
    ("subset", 1, {"kind": "pair"}, "kind"),
    ("benchmark_item", 1, {"item_id": "c-1"}, "unique"),
    ("benchmark_item", 1, {"captions": None}, "captions"),
    ("benchmark_item", 3, {"choices": None}, "choices"),
    ("benchmark_item", 4, {"boxes": []}, "boxes"),
    ("benchmark_item", 0, {"task": "riddle"}, "set"),
    ("component", 1, {"image_id": A}, "unique"),
    ("component", 1, {"component": None}, "component"),
    ("component", 0, {"kept": None}, "kept"),
    ("component", 1, {"kind": "guess"}, "kind"),
    ("component", 1, {"similarity": 1.5}, "similarity"),
    ("contamination", 0, {"item_id": ""}, "item_id"),
    ("contamination", 0, {"kind": "guess"}, "kind"),
    ("contamination", 0, {"similarity": None}, "similarity"),
    ("quarantine", 0, {"reason": ""}, "reason"),
]


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive that the good rows refer to, in the current folder; it ends directly after their image."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.tar").write_bytes(b"0" * 521)


def test_every_record_type_has_a_good_table_and_a_bad_one() -> None:
    assert set(GOOD) == set(SUITES) == {record_type for record_type, *_ in BAD}


@pytest.mark.parametrize("record_type", list(GOOD))
def test_good_table_passes(record_type: str, tmp_path: Path) -> None:
    schema, rows = GOOD[record_type]
    write_table(tmp_path / "table.parquet", schema, rows)
    summary = validate(record_type, tmp_path / "table.parquet")
    assert summary.faults == []
    assert summary.success
    assert summary.expectations >= 5
    assert summary.rows == len(rows)


@pytest.mark.parametrize(("record_type", "row", "change", "named"), BAD)
def test_each_fault_is_found_and_named(
    record_type: str, row: int, change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    schema, rows = GOOD[record_type]
    faulty = copy.deepcopy(rows)
    faulty[row] |= change
    write_table(tmp_path / "table.parquet", schema, faulty)
    summary = validate(record_type, tmp_path / "table.parquet")
    assert not summary.success
    assert any(named in fault for fault in summary.faults)


@pytest.mark.parametrize("record_type", [name for name in SUITES if name not in MAY_BE_EMPTY])
def test_empty_table_fails(record_type: str, tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", GOOD[record_type][0], [])
    assert not validate(record_type, tmp_path / "table.parquet").success


@pytest.mark.parametrize("record_type", MAY_BE_EMPTY)
def test_tables_of_removed_rows_may_be_empty(record_type: str, tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", GOOD[record_type][0], [])
    assert validate(record_type, tmp_path / "table.parquet").success
