"""Ingest gives the same samples for every source format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.curated_subsets.export import export
from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_karpathy


@pytest.mark.parametrize(
    ("form", "read_as"), [("llava", "llava"), ("jsonl", "jsonl"), ("webdataset", "webdataset"), ("hf", "hf_parquet")]
)
def test_samples_are_the_same(form: str, read_as: Any, tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    original = settings(tmp_path)
    source = original.source_pairs.captions
    export(source, [entry.key for entry in read_source(source)], tmp_path / "other", form)
    images = str(tmp_path / "images") if form in ("llava", "jsonl") else None
    other = SourceFile(format=read_as, path=str(tmp_path / "other"), images=images)
    changed = settings(tmp_path, captions=other, benchmarks=source if form == "llava" else other)
    expected = image_text_pairs.run({}, tmp_path / "a", original, SilentLogger())
    assert image_text_pairs.run({}, tmp_path / "b", changed, SilentLogger()) == expected
    rows, again = ({row["sample_id"]: row for row in read_table(tmp_path / f"{n}/samples.parquet")} for n in "ab")
    assert {name: {**row, "image": ""} for name, row in again.items()} == {
        name: {**row, "image": ""} for name, row in rows.items()
    }
    assert all(open_image(row["image"]).size == (24, 24) for row in again.values())
    assert validate("image_text_sample", tmp_path / "b/samples.parquet").faults == []
    figures = benchmark_sets.run({}, tmp_path / "items", changed, SilentLogger())
    assert figures["items/retrieval"] == 10 and figures["quarantined_rows"] == 0
