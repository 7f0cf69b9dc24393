"""Every CLIP, base and fine-tuned: zero-shot classification and retrieval (paper, evaluation)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.classification import Floats, class_embeddings, truth_ranks
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    COMPARED,
    Outcome,
    compare,
    figures_of,
    plot_results,
    summarise,
    write_results,
)
from rsqa_pipeline.benchmarks.retrieval import TestSet, best_ranks
from rsqa_pipeline.benchmarks.task import BenchmarkTask, load_tasks
from rsqa_pipeline.models.clip_embeddings import embed_images, embed_texts
from rsqa_pipeline.models.load import Clip, base_model, load_clip
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger

SUBSET_MODELS = ("all", "random_30", "clip_score_30", "score_model_30")

_SHOWN = (
    ("classification", "top_1", "class\ntop-1"),
    ("classification", "top_5", "class\ntop-5"),
    ("retrieval", "image_to_text_r1", "image to text\nR@1"),
    ("retrieval", "image_to_text_r5", "image to text\nR@5"),
    ("retrieval", "text_to_image_r1", "text to image\nR@1"),
    ("retrieval", "text_to_image_r5", "text to image\nR@5"),
)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions`` (parquet) and ``plots/accuracy.png``.

    Raises:
        DataError: the item table has no item of any CLIP task.
    """
    marks = settings.benchmarks
    tasks = read_items(inputs["benchmark_sets"], load_tasks("clip"))
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    folders = {"base": base_model(inputs["base_models"], "clip")}
    folders |= {name: str(inputs[f"clip_{name}"] / "model") for name in SUBSET_MODELS}
    outcomes: list[Outcome] = []
    for model, folder in tqdm(folders.items(), desc="clip benchmark", unit="model"):
        clip = load_clip(folder, settings.compute)
        outcomes += evaluate(clip, model, tasks, marks.batch_size)
    figures = figures_of(tasks)
    results = summarise(outcomes, figures, marks.bootstrap_resamples, settings.seed)
    comparisons = compare(outcomes, COMPARED, marks.bootstrap_resamples, settings.seed)
    metrics = write_results(out, outcomes, results, comparisons)
    plot_results(out / "plots" / "accuracy.png", results, [s for s in _SHOWN if s[:2] in figures])
    return metrics


def evaluate(clip: Clip, model: str, tasks: TaskItems, batch_size: int) -> list[Outcome]:
    """Marks of one CLIP on every item of every task; an image that several items share is embedded once."""
    references = {item["image_id"]: item["image"] for _, items in tasks for item in items}
    vectors = embed_images(clip, list(references.values()), batch_size)
    place = {image_id: row for row, image_id in enumerate(references)}
    outcomes = []
    for task, items in tasks:
        images = vectors[[place[item["image_id"]] for item in items]]
        if task.name == "classification":
            outcomes += _classify(clip, model, task, items, images, batch_size)
        else:
            outcomes += _retrieve(clip, model, task, items, images, batch_size)
    return outcomes


def _classify(
    clip: Clip, model: str, task: BenchmarkTask, items: list[dict[str, Any]], images: Floats, batch_size: int
) -> list[Outcome]:
    classes = sorted({item["answer"] for item in items})
    similarities = images @ class_embeddings(clip, classes, task.prompts, batch_size).T
    ranks = truth_ranks(similarities, np.array([classes.index(item["answer"]) for item in items]))
    said = [classes[column] for column in similarities.argmax(axis=1)]
    return [
        Outcome(model, item["item_id"], task.name, metric.name, name, float(rank <= metric.k))
        for metric in task.metrics
        for item, name, rank in zip(items, said, ranks, strict=True)
    ]


def _retrieve(
    clip: Clip, model: str, task: BenchmarkTask, items: list[dict[str, Any]], images: Floats, batch_size: int
) -> list[Outcome]:
    test = TestSet.of([item["captions"] for item in items])
    similarities = images @ embed_texts(clip, test.texts, batch_size).T
    by_image = best_ranks(similarities, test.relevant)
    by_text = dict(zip(test.texts, best_ranks(similarities.T, test.relevant.T), strict=True))
    outcomes = []
    for metric in task.metrics:
        for item, rank in zip(items, by_image, strict=True):
            # an image's captions rise and fall together, so the interval draws them together, as one item
            ranks = [rank] if metric.direction == "image_to_text" else [by_text[text] for text in item["captions"]]
            hits = float(np.mean([r <= metric.k for r in ranks]))
            said = " ".join(str(int(r)) for r in ranks)
            outcomes.append(Outcome(model, item["item_id"], task.name, metric.name, said, hits))
    return outcomes
