"""Benchmarks from files: items use only test images, every task is answerable, nothing leaks from training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_image, write_karpathy


def test_items_of_a_karpathy_file(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path)
    content["images"].append({"filename": "gone_1.jpg", "split": "test", "sentences": [{"raw": "lost ."}]})
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    metrics = benchmark_sets.run({}, tmp_path / "items", settings(tmp_path), SilentLogger())
    image_text_pairs.run({}, tmp_path / "pairs", settings(tmp_path), SilentLogger())
    items = read_table(tmp_path / "items" / "items.parquet")
    assert metrics["input_rows"] == 61 == metrics["kept_rows"] + metrics["quarantined/missing_image"]
    tasks = ("choice", "classification", "presence", "retrieval")
    counts = {name: count for name, count in metrics.items() if name.startswith("items/")}
    assert {name: count for name, count in counts.items() if "reward_" not in name} == {
        f"items/{task}": 10.0 for task in tasks
    }
    assert counts["items/reward_unanswerable"] == counts["items/reward_empty_or_repeated"] == 10
    trained = {row["image_id"] for row in read_table(tmp_path / "pairs" / "samples.parquet") if row["split"] != "test"}
    assert not trained & {item["image_id"] for item in items}
    for item in items:
        assert open_image(item["image"]).size == (24, 24)
        if item["task"] == "retrieval":
            assert len(item["captions"]) == 5
        if item["task"] == "classification":
            assert item["answer"] == item["scene_class"].replace("_", " ")
        if item["task"].startswith("reward_"):
            assert item["choices"].count(item["answer"]) == 1
        if item["task"] == "choice":
            assert item["choices"]["ABCD".index(item["answer"])] == item["scene_class"].replace("_", " ")
        if item["task"] == "presence":
            asked = item["question"].removesuffix("?").split(" of a", 1)[1].removeprefix("n").strip()
            assert item["answer"] == ("yes" if asked == item["scene_class"].replace("_", " ") else "no")
    assert validate("benchmark_item", tmp_path / "items" / "items.parquet").success


def test_image_folder_gives_class_items_only(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    for index, name in enumerate(("River", "Forest", "Highway") * 3):
        write_image(tmp_path / "eurosat" / name / f"{index}.jpg", 500 + index)
    source = SourceFile(format="image_folder", path=str(tmp_path / "eurosat"))
    metrics = benchmark_sets.run({}, tmp_path / "out", settings(tmp_path, benchmarks=source), SilentLogger())
    assert {name for name in metrics if name.startswith("items/")} == {
        f"items/{task}" for task in ("classification", "presence", "reward_unanswerable")
    }
    assert metrics["items/classification"] == 9


def test_file_without_splits_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 1)
    (tmp_path / "pairs.csv").write_text("image,text\na.jpg,a plane .\n")
    source = SourceFile(format="csv", path=str(tmp_path / "pairs.csv"))
    both = settings(tmp_path, captions=source, benchmarks=source)
    with pytest.raises(DataError, match="is trained on"):
        benchmark_sets.run({}, tmp_path / "out", both, SilentLogger())
    metrics = benchmark_sets.run({}, tmp_path / "out", settings(tmp_path, benchmarks=source), SilentLogger())
    assert metrics["items/retrieval"] == 1


def test_missing_test_rows_and_a_wrong_format_are_errors(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"train": 6})
    with pytest.raises(DataError, match="no rows of split 'test'"):
        benchmark_sets.run({}, tmp_path / "out", settings(tmp_path), SilentLogger())
    source = SourceFile(format="llava", path=str(tmp_path / "dataset.json"))
    with pytest.raises(DataError, match="read with format: karpathy, coco"):
        benchmark_sets.run({}, tmp_path / "out", settings(tmp_path, benchmarks=source), SilentLogger())
