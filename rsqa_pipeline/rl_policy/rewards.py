"""Rewards of the policy, one contract: lists in, ``list[float | None]`` out, in the order of the completions.

None means that there is no value: the reward does not apply to the row, or the score that it needs is missing. It never
means 0, and TRL leaves such a row out of its group's baseline. A scorer that fails raises.

Paper, reinforcement learning: reward = 0.3 * format + 0.7 * accuracy, and nothing without the format.

Departures from the released code:

1. several boxes are matched one to one and averaged, so a grounding reward cannot exceed 1;
2. boxes are pixels of the image, always; the released code takes numbers below 1 for fractions;
3. a reference without a readable box raises: it is a fault of the data, which the released code scores as a miss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from rsqa_pipeline.errors import DataError

Box = tuple[float, float, float, float]

_INSIDE = r"((?:(?!</?(?:think|answer)>).)*)"
_FORMAT = re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL)
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_IOU_GRADES = ((0.8, 1.0), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5))


def read_answer(completion: str) -> str | None:
    """Text between the answer tags, None unless the whole completion is one think and one answer block."""
    match = _FORMAT.fullmatch(completion)
    return match.group(2).strip() if match else None


def read_boxes(text: str) -> list[Box]:
    """Every ``[x0, y0, x1, y1]`` in the text, pixels of the image, in order of appearance."""
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in _BOX.findall(text)]


def iou(a: Box, b: Box) -> float:
    """Intersection over union in [0, 1]; a box whose corners are swapped or equal has no area and meets nothing."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    if width <= 0 or height <= 0 or 0.0 in areas:
        return 0.0
    return width * height / (sum(areas) - width * height)


def format_reward(completions: Sequence[str]) -> list[float | None]:
    """1 where the completion is ``<think>...</think><answer>...</answer>`` and nothing else, otherwise 0."""
    return [0.0 if read_answer(completion) is None else 1.0 for completion in completions]


def exact_match_reward(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """Close-ended: 1 where the answer is the reference, case, outer space and a last full stop aside, otherwise 0."""
    return [float(_plain(a) == _plain(r)) for a, r in zip(answers, references, strict=True)]


def grounding_reward(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """Boxes, graded by IoU: above 0.5, 0.6, 0.7, 0.8 gives 0.5, 0.6, 0.7, 1.0; mean over the reference's boxes.

    Boxes are matched one to one so that the total IoU is greatest. Another number of boxes than in the reference
    gives 0.

    Raises:
        DataError: a reference holds no box.
    """
    return [_grade(read_boxes(a), _reference_boxes(r)) for a, r in zip(answers, references, strict=True)]


def open_ended_reward(
    scores: Sequence[float | None], reference_scores: Sequence[float | None], beta: float
) -> list[float | None]:
    """Open-ended: 1 - exp(-beta * (f(I, answer) - f(I, reference))) above the reference, otherwise 0; in [0, 1).

    None where either score is missing.
    """
    rewards: list[float | None] = []
    for score, reference in zip(scores, reference_scores, strict=True):
        if score is None or reference is None:
            rewards.append(None)
        else:
            rewards.append(1.0 - math.exp(-beta * (score - reference)) if score > reference else 0.0)
    return rewards


def combined_reward(
    formats: Sequence[float | None], accuracies: Sequence[float | None], format_weight: float, accuracy_weight: float
) -> list[float | None]:
    """format_weight * format + accuracy_weight * accuracy; 0 without the format; None where a part is missing."""
    totals: list[float | None] = []
    for form, accuracy in zip(formats, accuracies, strict=True):
        if form is None:
            totals.append(None)
        elif form == 0.0:
            totals.append(0.0)
        else:
            totals.append(None if accuracy is None else format_weight * form + accuracy_weight * accuracy)
    return totals


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").strip().lower()


def _reference_boxes(reference: str) -> list[Box]:
    boxes = read_boxes(reference)
    if not boxes:
        raise DataError(
            f"grounding reference {reference!r} holds no box; needed: one or more [x0, y0, x1, y1] in pixels. "
            "Leave such samples out of the prompts."
        )
    return boxes


def _grade(predicted: list[Box], reference: list[Box]) -> float:
    if len(predicted) != len(reference):
        return 0.0
    overlaps = np.array([[iou(p, r) for r in reference] for p in predicted])
    pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    grades = [next((grade for above, grade in _IOU_GRADES if overlaps[p, r] > above), 0.0) for p, r in pairs]
    return float(np.mean(grades))
