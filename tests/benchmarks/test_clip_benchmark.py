"""The CLIP benchmark end to end on an untrained CLIP, and its embeddings in isolation."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.classification import class_embeddings
from rsqa_pipeline.benchmarks.clip_benchmark import evaluate, run
from rsqa_pipeline.benchmarks.items import read_items
from rsqa_pipeline.benchmarks.task import TASK_FOLDER, load_tasks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.clip_embeddings import embed_images, embed_texts
from rsqa_pipeline.models.load import Clip, load_clip
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import BENCHMARK_ITEM, read_table, write_table
from rsqa_pipeline.tracking.run_logger import SilentLogger


@pytest.fixture(scope="module")
def clip(models: Path, settings: Profile) -> Clip:
    return load_clip(models / "clip", settings.compute)


def test_embeddings_are_unit_rows_for_any_batch_size(clip: Clip, item_rows: list[dict[str, Any]]) -> None:
    images = [row["image"] for row in item_rows[:5]]
    together, apart = embed_images(clip, images, 8), embed_images(clip, images, 2)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.abs(together - apart).max() < 1e-5
    texts = ["a river", "a beach with a very long description " * 40, "3"]
    assert np.abs(embed_texts(clip, texts, 8) - embed_texts(clip, texts, 1)).max() < 1e-5


def test_class_embedding_is_the_mean_of_its_templates(clip: Clip) -> None:
    found = class_embeddings(clip, ["storage_tanks"], ["a {class}.", "the {class}."], 8)
    mean = embed_texts(clip, ["a storage tanks.", "the storage tanks."], 8).mean(axis=0)
    assert found[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_images_are_assigned_to_the_class_with_their_embedding(
    clip: Clip, benchmark_sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [pair for pair in read_items(benchmark_sets, load_tasks("clip")) if pair[0].name == "classification"]
    class_of_image = {item["image"]: ["river", "beach", "harbour"].index(item["answer"]) for item in tasks[0][1]}

    def images(_: Clip, references: list[str], __: int) -> Any:
        return np.eye(3, dtype=np.float32)[[class_of_image[reference] for reference in references]]

    def classes(_: Clip, names: list[str], *__: object) -> Any:
        return np.eye(3, dtype=np.float32)[[["river", "beach", "harbour"].index(name) for name in names]]

    monkeypatch.setattr("rsqa_pipeline.benchmarks.clip_benchmark.embed_images", images)
    monkeypatch.setattr("rsqa_pipeline.benchmarks.clip_benchmark.class_embeddings", classes)
    outcomes = evaluate(clip, "base", tasks, 8)
    assert {outcome.correct for outcome in outcomes} == {1.0}
    assert [o.prediction for o in outcomes[:6]] == [item["answer"] for item in tasks[0][1]]


def test_a_second_classification_task_is_a_second_file(
    models: Path, benchmark_sets: Path, settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(TASK_FOLDER, folder)
    text = (folder / "classification.yaml").read_text()
    (folder / "land_use.yaml").write_text(
        text.replace("name: classification", "name: land_use").replace("satellite", "land use")
    )
    monkeypatch.setattr("rsqa_pipeline.benchmarks.clip_benchmark.load_tasks", partial(load_tasks, folder=folder))
    inputs = {"benchmark_sets": benchmark_sets, "base_models": models}
    metrics = run(inputs, tmp_path / "out", settings, SilentLogger(), models={}, comparisons=[])
    assert {"base/classification/top_1", "base/land_use/top_1", "base/land_use/top_5"} <= set(metrics)
    results = read_table(tmp_path / "out" / "results.parquet")
    assert {r["n"] for r in results if r["task"] == "land_use"} == {6}


def test_run_writes_every_table(models: Path, benchmark_sets: Path, settings: Profile, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "model").symlink_to(models / "clip")
    inputs = {"benchmark_sets": benchmark_sets, "base_models": models} | {
        f"clip_{s}": tuned for s in settings.curated_subsets.subsets
    }
    names = list(settings.curated_subsets.subsets)
    options: dict[str, Any] = {"models": {name: f"clip_{name}" for name in names}}
    options["comparisons"] = [("score_model_p30s60", other) for other in ("base", *names[:-1])]
    outs = [tmp_path / "first", tmp_path / "second"]
    metrics = [run(inputs, out, settings, SilentLogger(), **options) for out in outs]
    assert metrics[0] == metrics[1]
    results = read_table(outs[0] / "results.parquet")
    assert len(results) == 5 * 9
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 and 0 < r["chance"] <= 1 for r in results)
    assert {r["n"] for r in results if r["task"] != "all_tasks"} == {6}
    assert {r["n"] for r in results if r["task"] == "all_tasks"} == {3 * 6}
    comparisons = read_table(outs[0] / "comparisons.parquet")
    assert {(c["model"], c["baseline"]) for c in comparisons} == {
        ("score_model_p30s60", baseline) for baseline in ("base", "all", "random_p30s60", "clip_score_p30s60")
    }
    # the same weights under five names: the difference is exactly 0
    assert all(c["difference"] == c["low"] == c["high"] == 0 and c["p_value"] == 1 for c in comparisons)
    assert len(read_table(outs[0] / "predictions.parquet")) == 5 * 8 * 6
    for name in ("results.parquet", "comparisons.parquet", "predictions.parquet", "plots/accuracy.png"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_a_table_without_items_names_what_is_needed(tmp_path: Path) -> None:
    write_table(tmp_path / "items.parquet", BENCHMARK_ITEM, [{"item_id": "x", "task": "presence"}])
    with pytest.raises(DataError, match=r"holds presence; needs .* classification, retrieval"):
        read_items(tmp_path, load_tasks("clip"))
