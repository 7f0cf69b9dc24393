"""Chance levels: the result of a model that does not look at the image. Each metric is reported beside its level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.answer_matching import canonical
from rsqa_pipeline.benchmarks.captioning import other_caption_level
from rsqa_pipeline.benchmarks.retrieval import TestSet, random_recall
from rsqa_pipeline.benchmarks.task import BenchmarkTask, Metric
from rsqa_pipeline.boxes import MIN_IOU, iou


def chance_level(task: BenchmarkTask, metric: Metric, items: Sequence[dict[str, Any]]) -> float:
    """Chance level of a metric on these items, in [0, 1].

    uniform_class: k guesses among the classes that occur. uniform_choice: a random letter.
    most_frequent_answer: always the most frequent answer, which is never below a uniform guess.
    fixed_box: always the median box. other_caption: a reference caption of another image.
    random_ranking: candidates in random order.
    """
    match task.chance:
        case "uniform_class":
            return min(1.0, metric.k / len({item["answer"] for item in items}))
        case "uniform_choice":
            return float(np.mean([1 / len(item["choices"]) for item in items]))
        case "most_frequent_answer":
            counts = Counter(canonical(item["answer"]) for item in items)
            return max(counts.values()) / len(items)
        case "fixed_box":
            return fixed_box_accuracy([item["boxes"] for item in items])
        case "other_caption":
            return other_caption_level([item["captions"] for item in items])
        case "random_ranking":
            relevant = TestSet.from_captions([item["captions"] for item in items]).relevant
            if metric.direction == "image_to_text":
                return float(random_recall(relevant, metric.k).mean())
            # every caption is a query, duplicates included, as in the metric
            by_text = random_recall(relevant.T, metric.k)
            return float(np.mean([by_text[of_image].mean() for of_image in relevant]))


def fixed_box_accuracy(items: Sequence[Sequence[Sequence[float]]]) -> float:
    """Accuracy in [0, 1] of the same box for every item: the median of each side over all items."""
    box = np.median([boxes[0] for boxes in items], axis=0).tolist()
    return float(np.mean([any(iou(box, reference) >= MIN_IOU for reference in boxes) for boxes in items]))
