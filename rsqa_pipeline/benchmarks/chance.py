"""Chance levels: the result of a model that does not look at the image. Each metric is reported beside its level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.answer_matching import canonical
from rsqa_pipeline.benchmarks.captioning import other_caption_level
from rsqa_pipeline.benchmarks.retrieval import TestSet, random_recall
from rsqa_pipeline.benchmarks.task import BenchmarkTask, Metric, function_of
from rsqa_pipeline.boxes import MIN_IOU, iou

Items = Sequence[Mapping[str, Any]]


def chance_level(task: BenchmarkTask, metric: Metric, items: Items) -> float:
    """Chance level of a metric on these items, in [0, 1]. Raises DataError if the task's chance level is unknown."""
    return function_of(task, "chance", CHANCE)(metric, items)


def uniform_class(metric: Metric, items: Items) -> float:
    """k guesses among the classes that occur."""
    return min(1.0, metric.k / len({item["answer"] for item in items}))


def uniform_choice(metric: Metric, items: Items) -> float:
    """A random letter."""
    return float(np.mean([1 / len(item["choices"]) for item in items]))


def most_frequent_answer(metric: Metric, items: Items) -> float:
    """Always the most frequent answer, which is never below a uniform guess."""
    return max(Counter(canonical(item["answer"]) for item in items).values()) / len(items)


def fixed_box(metric: Metric, items: Items) -> float:
    """Always the median box."""
    return fixed_box_accuracy([item["boxes"] for item in items])


def other_caption(metric: Metric, items: Items) -> float:
    """A reference caption of another image."""
    return other_caption_level([item["captions"] for item in items])


def random_ranking(metric: Metric, items: Items) -> float:
    """Candidates in random order."""
    relevant = TestSet.from_captions([item["captions"] for item in items]).relevant
    if metric.direction == "image_to_text":
        return float(random_recall(relevant, metric.k).mean())
    # every caption is a query, duplicates included, as in the metric
    by_text = random_recall(relevant.T, metric.k)
    return float(np.mean([by_text[of_image].mean() for of_image in relevant]))


def random_order(metric: Metric, items: Items) -> float:
    """Scores in random order: the right text is the first of itself and its rivals."""
    return 1 / (1 + metric.rivals)


CHANCE: Mapping[str, Callable[[Metric, Items], float]] = {
    level.__name__: level
    for level in (
        uniform_class,
        uniform_choice,
        most_frequent_answer,
        fixed_box,
        other_caption,
        random_ranking,
        random_order,
    )
}
"""Chance levels by name."""


def fixed_box_accuracy(items: Sequence[Sequence[Sequence[float]]]) -> float:
    """Accuracy in [0, 1] of the same box for every item: the median of each side over all items."""
    box = np.median([boxes[0] for boxes in items], axis=0).tolist()
    return float(np.mean([any(iou(box, reference) >= MIN_IOU for reference in boxes) for boxes in items]))
