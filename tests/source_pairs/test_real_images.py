"""The source stages on real overhead images with human captions; other tests use generated images."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import Corruption, Profile, SourceFile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs, instruction_samples
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings


@pytest.fixture
def rsicd(shared_data: Path) -> Profile:
    folder = shared_data / "rsicd"
    if not folder.is_dir():
        pytest.skip(f"no RSICD images at {folder}")
    file = {
        "path": str(folder / "dataset_rsicd.json"), "images": str(folder / "RSICD_images"),
        "scene_class_from_name": True, "limit": 60,
    }  # fmt: skip
    habits = Corruption(share=0.7, sources=["class_swap", "count_change", "vague", "wrong_image"])
    answers = Corruption(share=0.5, sources=["class_swap", "vague"])
    return settings(
        folder,
        captions=SourceFile(format="karpathy", corruption=habits, **file),
        instructions=SourceFile(format="class_questions", corruption=answers, **file),
        benchmarks=SourceFile(format="karpathy", **file),
        instruction_samples=120,
        benchmark_items=60,
    )


def test_limited_run_on_rsicd(rsicd: Profile, tmp_path: Path) -> None:
    metrics = image_text_pairs.run({}, tmp_path / "pairs", rsicd, SilentLogger())
    assert metrics["input_rows"] == 5 * 3 * 60 == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert metrics["quarantined_rows"] == metrics["quarantined/duplicate_id"] > 0
    assert metrics["images"] == 180
    samples = read_table(tmp_path / "pairs" / "samples.parquet")
    assert len({row["scene_class"] for row in samples}) == 30
    assert open_image(samples[0]["image"]).size == (150, 150)
    assert 0.6 < metrics["corpus_corrupted_share"] < 0.85
    metrics = instruction_samples.run({}, tmp_path / "instructions", rsicd, SilentLogger())
    assert metrics["kept_rows"] == 120
    metrics = benchmark_sets.run({}, tmp_path / "items", rsicd, SilentLogger())
    assert {metrics[f"items/{task}"] for task in ("retrieval", "classification", "presence", "choice")} == {60}
    for record_type, table in (
        ("image_text_sample", "pairs/samples"), ("image_text_sample", "instructions/samples"),
        ("benchmark_item", "items/items"), ("quarantine", "pairs/quarantine"),
    ):  # fmt: skip
        assert validate(record_type, tmp_path / f"{table}.parquet").faults == []
