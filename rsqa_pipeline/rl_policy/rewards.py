"""Rewards of the policy. Each one takes lists and returns ``list[float | None]``, in the order of the completions.

None means that there is no value: the reward does not apply to the row, or a score that it needs is missing. It never
means 0, and TRL excludes such a row from its group's baseline. A failing scorer raises an exception.

Paper, reinforcement learning: reward = 0.3 * format + 0.7 * accuracy, and 0 without the format.

Departures from the released code:

1. several boxes are matched one to one and averaged, so a grounding reward cannot exceed 1; a wrong number of boxes
   earns 0;
2. box coordinates are always pixels of the image; the released code interprets numbers below 1 as fractions. A box may
   be written in any form of `rsqa_pipeline.boxes`, where swapped corners are ordered;
3. a reference without a readable box is a data error and raises; the released code scores it as a miss;
4. an answer is right by the rule of the benchmarks (`rsqa_pipeline.answer_matching`): "two" equals "2", "an airport"
   equals "airports", "storage_tanks" equals "storage tanks", and an empty answer is wrong; the released code compares
   the letters, so an empty answer equals an empty reference;
5. a missing score gives no reward; the released code turns a failed call into the reward 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from rsqa_pipeline.answer_matching import same_answer
from rsqa_pipeline.boxes import Box, iou, read_boxes
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import OpenEndedForm

_INSIDE = r"((?:(?!</?(?:think|answer)>).)*)"
_FORMAT = re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL)
_IOU_GRADES = ((0.8, 1.0), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5))


def read_answer(completion: str) -> str | None:
    """Text in the answer tags; None unless the completion is exactly one think block and one answer block."""
    match = _FORMAT.fullmatch(completion)
    return match.group(2).strip() if match else None


def format_reward(completions: Sequence[str]) -> list[float | None]:
    """1 if the completion is exactly ``<think>...</think><answer>...</answer>``, otherwise 0."""
    return [0.0 if read_answer(completion) is None else 1.0 for completion in completions]


def exact_match_reward(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """Close-ended: 1 if the answer is the same as the reference (`answer_matching`), otherwise 0."""
    return [float(same_answer(a, r)) for a, r in zip(answers, references, strict=True)]


def iou_reward(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """Grounding: an IoU above 0.5, 0.6, 0.7, 0.8 gives 0.5, 0.6, 0.7, 1.0; mean over the reference's boxes.

    Boxes are matched one to one to maximize the total IoU. If the number of boxes differs from the reference, the
    reward is 0.

    Raises:
        DataError: a reference has no box.
    """
    return [_grade(read_boxes(a), _reference_boxes(r)) for a, r in zip(answers, references, strict=True)]


def open_ended_reward(
    scores: Sequence[float | None],
    reference_scores: Sequence[float | None],
    beta: float,
    form: OpenEndedForm = "paper",
) -> list[float | None]:
    """Reward of open-ended answers by d = f(I, answer) - f(I, reference), in [0, 1); None if either score is missing.

    paper: 1 - exp(-beta * d) above the reference, otherwise 0. graded: 1 - exp(-beta * d) / 2 above the reference,
    otherwise exp(beta * d) / 2: strictly increasing, so it also orders answers below the reference.
    """
    return [
        None if score is None or reference is None else _reward_of_gap(score - reference, beta, form)
        for score, reference in zip(scores, reference_scores, strict=True)
    ]


def _reward_of_gap(gap: float, beta: float, form: OpenEndedForm) -> float:
    tail = math.exp(-beta * abs(gap))
    if form == "graded":
        return 1.0 - tail / 2 if gap > 0 else tail / 2
    return 1.0 - tail if gap > 0 else 0.0


def combined_reward(
    formats: Sequence[float | None], accuracies: Sequence[float | None], format_weight: float, accuracy_weight: float
) -> list[float | None]:
    """format_weight * format + accuracy_weight * accuracy; 0 without the format; None if a part is missing."""
    totals: list[float | None] = []
    for form, accuracy in zip(formats, accuracies, strict=True):
        if form is None:
            totals.append(None)
        elif form == 0.0:
            totals.append(0.0)
        else:
            totals.append(None if accuracy is None else format_weight * form + accuracy_weight * accuracy)
    return totals


def _reference_boxes(reference: str) -> list[Box]:
    boxes = read_boxes(reference)
    if not boxes:
        raise DataError(
            f"grounding reference {reference!r} has no box; expected one or more [x0, y0, x1, y1] in pixels. "
            "Exclude such samples from the prompts."
        )
    return boxes


def _grade(predicted: list[Box], reference: list[Box]) -> float:
    if len(predicted) != len(reference):
        return 0.0
    overlaps = np.array([[iou(p, r) for r in reference] for p in predicted])
    pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    grades = [next((grade for threshold, grade in _IOU_GRADES if overlaps[p, r] > threshold), 0.0) for p, r in pairs]
    return float(np.mean(grades))
