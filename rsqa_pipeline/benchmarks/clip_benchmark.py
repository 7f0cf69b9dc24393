"""Benchmarks every CLIP, base and fine-tuned: zero-shot classification and retrieval (paper, evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.benchmarks.classification import Floats, class_embeddings, truth_ranks
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    ALL_TASKS,
    MetricInfo,
    Outcome,
    compare,
    metric_infos,
    plot_results,
    pooled,
    rows_of,
    summarise,
    write_results,
)
from rsqa_pipeline.benchmarks.retrieval import TestSet, best_ranks
from rsqa_pipeline.benchmarks.task import BenchmarkTask, function_of, load_tasks
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.models.clip_embeddings import embed_images, embed_texts
from rsqa_pipeline.models.load import Clip, load_clip
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger

POOLED_METRIC = "rank_1"
"""Metric of the row over all tasks: share of classes, images and captions with the right match at rank 1."""


def run(
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    *,
    models: Mapping[str, str],
    comparisons: Sequence[Sequence[str]],
) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions`` (parquet) and ``plots/accuracy.png``.

    Args:
        models: subset -> the input that holds its models.
        comparisons: (model, baseline) pairs.

    Raises:
        DataError: the item table has no item of any CLIP task.
    """
    config, seeds = settings.benchmarks, settings.finetuned_models.seeds
    tasks = read_items(inputs["benchmark_sets"], load_tasks("clip"))
    infos = metric_infos(tasks)
    for task, _ in tasks:
        function_of(task, "marker", MARKERS)  # an unknown name is found before any model is loaded
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    outcomes: list[Outcome] = []
    for model, seed, folder in tqdm(rows_of(inputs, "clip", models, seeds), desc="clip benchmark", unit="model"):
        clip = load_clip(folder, settings.compute)
        outcomes += [replace(found, seed=seed) for found in evaluate(clip, model, tasks, config.batch_size)]
    first = {(task.name, metric.name) for task, _ in tasks for metric in task.metrics if metric.k == 1}
    counted = outcomes + pooled([o for o in outcomes if (o.task, o.metric) in first], POOLED_METRIC)
    items_of = {task.name: len(items) for task, items in tasks}
    levels, weights = zip(*((infos[name].chance, items_of[name[0]]) for name in sorted(first)), strict=True)
    chance = float(np.average(levels, weights=weights))
    infos[(ALL_TASKS, POOLED_METRIC)] = MetricInfo(chance, binary=False)
    results = summarise(counted, infos, config.bootstrap_resamples, settings.seed)
    differences = compare(counted, comparisons, config.bootstrap_resamples, settings.seed)
    metrics = write_results(out, outcomes, results, differences)
    shown = [(task.name, metric.name, metric.label) for task, _ in tasks for metric in task.metrics if metric.label]
    plot_results(out / "plots" / "accuracy.png", results, shown, Compared.of(settings))
    return metrics


def evaluate(clip: Clip, model: str, tasks: TaskItems, batch_size: int) -> list[Outcome]:
    """Outcomes of one CLIP on every item of every task. An image shared by several items is embedded once."""
    references = {item["image_id"]: item["image"] for _, items in tasks for item in items}
    vectors = embed_images(clip, list(references.values()), batch_size)
    row_of_image = {image_id: row for row, image_id in enumerate(references)}
    outcomes = []
    for task, items in tasks:
        images = vectors[[row_of_image[item["image_id"]] for item in items]]
        outcomes += function_of(task, "marker", MARKERS)(clip, model, task, items, images, batch_size)
    return outcomes


def class_rank(
    clip: Clip, model: str, task: BenchmarkTask, items: list[dict[str, Any]], images: Floats, batch_size: int
) -> list[Outcome]:
    """Zero-shot classification: 1 if the item's class is among the k nearest."""
    classes = sorted({item["answer"] for item in items})
    similarities = images @ class_embeddings(clip, classes, task.prompts, batch_size).T
    ranks = truth_ranks(similarities, np.array([classes.index(item["answer"]) for item in items]))
    predicted = [classes[column] for column in similarities.argmax(axis=1)]
    return [
        Outcome(model, item["item_id"], item["image_id"], task.name, metric.name, name, float(rank <= metric.k))
        for metric in task.metrics
        for item, name, rank in zip(items, predicted, ranks, strict=True)
    ]


def caption_rank(
    clip: Clip, model: str, task: BenchmarkTask, items: list[dict[str, Any]], images: Floats, batch_size: int
) -> list[Outcome]:
    """Retrieval: share of the queries of an item whose best match is among the first k."""
    test = TestSet.from_captions([item["captions"] for item in items])
    similarities = images @ embed_texts(clip, test.texts, batch_size).T
    by_image = best_ranks(similarities, test.relevant)
    by_text = dict(zip(test.texts, best_ranks(similarities.T, test.relevant.T), strict=True))
    outcomes = []
    for metric in task.metrics:
        for item, rank in zip(items, by_image, strict=True):
            # captions of one image are correlated, so the interval resamples them together, as one item
            ranks = [rank] if metric.direction == "image_to_text" else [by_text[text] for text in item["captions"]]
            hits = float(np.mean([r <= metric.k for r in ranks]))
            prediction = " ".join(str(int(r)) for r in ranks)
            outcomes.append(Outcome(model, item["item_id"], item["image_id"], task.name, metric.name, prediction, hits))
    return outcomes


MARKERS: Mapping[str, Callable[[Clip, str, BenchmarkTask, list[dict[str, Any]], Floats, int], list[Outcome]]] = {
    "class_rank": class_rank,
    "caption_rank": caption_rank,
}
"""Outcomes of a CLIP on a task's items, by name."""
