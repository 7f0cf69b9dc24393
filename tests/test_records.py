"""`records`: ids, tables that are read as written, references that stay valid in a moved folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.records import (
    BENCHMARK_ITEM,
    IMAGE_TEXT_SAMPLE,
    SCORED_SAMPLE,
    Message,
    canonical_messages,
    pair_id,
    read_table,
    sample_id,
    sha256,
    write_table,
)

TURNS: list[Message] = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3 川"}]
SAMPLE = {
    "sample_id": "s", "image_id": "i", "messages": TURNS, "task": "count", "source": "human", "split": "corpus",
    "scene_class": None, "true_quality": None,
}  # fmt: skip


def test_canonical_messages_ignore_key_order_and_keep_unicode() -> None:
    turned: list[Message] = [{"content": turn["content"], "role": turn["role"]} for turn in TURNS]
    assert canonical_messages(turned) == canonical_messages(TURNS)
    assert canonical_messages(TURNS) == (
        '[{"content":"How many?","role":"user"},{"content":"3 川","role":"assistant"}]'
    )


def test_sample_id_is_stable_across_versions() -> None:
    assert sample_id("41", [{"role": "assistant", "content": "a port ."}]) == (
        "3f77d226b2804a918072f2814f6e974574b9270cdc2713200fa97593087cedb2"
    )


@settings(deadline=None)
@given(left=st.lists(st.text(max_size=4), max_size=4), right=st.lists(st.text(max_size=4), max_size=4))
def test_hash_distinguishes_parts(left: list[str], right: list[str]) -> None:
    assert (sha256(*left) == sha256(*right)) == (left == right)


def test_pair_id_depends_on_the_order() -> None:
    assert pair_id("i", TURNS[:1], "a", "b") != pair_id("i", TURNS[:1], "b", "a")
    assert pair_id(None, [], "a", "b") == pair_id("", [], "a", "b")


@pytest.mark.parametrize("member", ["", "#512+9"])
def test_image_references_are_relative_on_disk_and_absolute_in_memory(member: str, tmp_path: Path) -> None:
    table = tmp_path / "data" / "stage" / "samples.parquet"
    image = tmp_path / "data" / "images" / "one #2.png"
    write_table(table, IMAGE_TEXT_SAMPLE, [{**SAMPLE, "image": f"{image}{member}"}])
    assert pd.read_parquet(table)["image"].tolist() == [f"../images/one #2.png{member}"]
    assert read_table(table)[0]["image"] == f"{image}{member}"
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = tmp_path / "moved" / "images" / "one #2.png"
    assert read_table(tmp_path / "moved" / "stage" / "samples.parquet")[0]["image"] == f"{moved}{member}"


def test_rows_are_read_as_written_with_missing_values_none(tmp_path: Path) -> None:
    rows = [{**SAMPLE, "image": str(tmp_path / "a.png")}, {**SAMPLE, "image": None, "true_quality": 4.5}]
    assert write_table(tmp_path / "t.parquet", IMAGE_TEXT_SAMPLE, rows) == 2
    assert read_table(tmp_path / "t.parquet") == rows


def test_nested_columns_and_frames(tmp_path: Path) -> None:
    item = {
        "item_id": "g-1", "task": "grounding", "image_id": "i", "image": None, "question": "where?", "answer": None,
        "choices": ["a", "b"], "boxes": [[0.0, 1.0, 2.5, 3.0]], "captions": None, "scene_class": "port",
    }  # fmt: skip
    write_table(tmp_path / "one.parquet", BENCHMARK_ITEM, [item])
    assert read_table(tmp_path / "one.parquet") == [item]
    write_table(tmp_path / "two.parquet", BENCHMARK_ITEM, pd.read_parquet(tmp_path / "one.parquet"))
    assert read_table(tmp_path / "two.parquet") == [item]


def test_nan_is_missing_and_wrong_types_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sample_id": ["a", "b"], "score": [1.5, float("nan")], "model_version": ["v", None]})
    write_table(tmp_path / "t.parquet", SCORED_SAMPLE, frame)
    assert [row["score"] for row in read_table(tmp_path / "t.parquet")] == [1.5, None]
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_table(tmp_path / "t.parquet", SCORED_SAMPLE, [{"sample_id": "a", "score": "high"}])
