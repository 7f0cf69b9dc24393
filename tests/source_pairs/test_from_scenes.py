"""The embedded scenes as source: samples have their truth, bad rows are counted, seeds do not overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import hash_image, open_image, read_bytes
from rsqa_pipeline.profile import Profile, SourceFile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.scenes.corpus import write_demo_corpus
from rsqa_pipeline.scenes.marks import mark_answer, mark_caption
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.scenes.vocabulary import SCENES
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs, instruction_samples
from rsqa_pipeline.source_pairs.reward_items import REWARD_TASKS
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings


def scenes(corpus: Path) -> Profile:
    scene_source = SourceFile(format="scenes")
    return settings(
        corpus.parent,
        captions=SourceFile(format="scenes", path=str(corpus)),
        instructions=scene_source,
        benchmarks=scene_source,
        instruction_samples=31,
        benchmark_items=5,
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_demo_corpus(tmp_path / "captions.csv", range(40), seed=7)
    return tmp_path / "captions.csv"


def test_captions(corpus: Path, tmp_path: Path) -> None:
    with corpus.open("ab") as file:
        file.write(b'41,expert,""\n42,expert,caf\xe9\nx,expert,a port.\n1000000,expert,a port.\n,,\n3,,another text.\n')
    (tmp_path / "out").mkdir()
    metrics = image_text_pairs.run({}, tmp_path / "out", scenes(corpus), SilentLogger())
    assert (metrics["input_rows"], metrics["kept_rows"]) == (46, 41)
    assert (metrics["quarantined/empty_text"], metrics["quarantined/not_utf8"]) == (1, 1)
    assert metrics["quarantined/bad_row"] == 3
    samples = read_table(tmp_path / "out" / "samples.parquet")
    known = read_table(tmp_path / "out" / "truth.parquet")
    truth = {row["sample_id"]: row["scene"] for row in known}
    assert all(mark_caption(sample_scene(row["scene"]), row["reference_text"]).mean == 5 for row in known)
    assert metrics["images"] == 40 == len({row["image_id"] for row in samples})
    for row in samples:
        scene = sample_scene(truth[row["sample_id"]])
        assert np.array_equal(np.asarray(open_image(row["image"])), render(scene))
        assert hash_image(read_bytes(row["image"])) == row["image_id"]
        assert row["scene_class"] == scene.scene_class
        assert 1 <= row["true_quality"] <= 5
    assert {row["split"] for row in samples} == {"preference", "corpus"}
    assert validate("image_text_sample", tmp_path / "out" / "samples.parquet").success


def test_instructions_and_benchmarks(corpus: Path, tmp_path: Path) -> None:
    for name, stage in (("instructions", instruction_samples), ("benchmarks", benchmark_sets)):
        (tmp_path / name).mkdir()
        metrics = stage.run({}, tmp_path / name, scenes(corpus), SilentLogger())
        assert metrics["kept_rows"] + metrics["quarantined_rows"] == metrics["input_rows"]
    quarantined = read_table(tmp_path / "instructions" / "quarantine.parquet")
    samples = read_table(tmp_path / "instructions" / "samples.parquet")
    assert len(samples) + len(quarantined) == 31
    truth = {row["sample_id"]: row for row in read_table(tmp_path / "instructions" / "truth.parquet")}
    for row in samples:
        known = truth[row["sample_id"]]
        question = row["messages"][0]["content"]
        assert mark_answer(sample_scene(known["scene"]), question, known["reference_text"]).mean > 4.5
    items = read_table(tmp_path / "benchmarks" / "items.parquet")
    assert sorted(name.removeprefix("items/") for name in metrics if name.startswith("items/")) == [
        "choice", "classification", "comparison", "count", "grounding", "presence", "retrieval",
        *sorted(REWARD_TASKS), "rural_urban",
    ]  # fmt: skip
    assert len(items) == 15 * 5
    trained = {row["image_id"] for row in read_table(tmp_path / "instructions" / "samples.parquet")}
    assert not trained & {item["image_id"] for item in items}
    answers = {SCENES[item["scene_class"]].name: item["answer"] for item in items if item["task"] == "classification"}
    assert all(name == answer for name, answer in answers.items())
    assert all("\n" not in (item["question"] or "") for item in items)
    assert validate("benchmark_item", tmp_path / "benchmarks" / "items.parquet").success


def test_a_rerun_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        image_text_pairs.run({}, tmp_path / name, scenes(corpus), SilentLogger())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_missing_column(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("scene,caption\n1,a port.\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="source"):
        image_text_pairs.run({}, tmp_path / "out", scenes(tmp_path / "captions.csv"), SilentLogger())
