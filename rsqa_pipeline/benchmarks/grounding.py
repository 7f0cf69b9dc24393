"""Grades boxes: exactly one box in pixels of the stored image, right at IoU 0.5 or more (paper, evaluation:
VG-DIOR).

Units are never guessed: a box in fractions of the image is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsqa_pipeline.rl_policy.rewards import Box, iou, read_boxes

MIN_IOU = 0.5
"""Smallest IoU of a right box."""


def read_one_box(prediction: str | None) -> Box | None:
    """The ``[x0, y0, x1, y1]`` of a reply, in pixels; None for no box, several boxes, or a box without area."""
    boxes = read_boxes(prediction or "")
    if len(boxes) != 1:
        return None
    x0, y0, x1, y1 = boxes[0]
    return boxes[0] if x1 > x0 and y1 > y0 else None


def is_hit(prediction: str | None, boxes: Sequence[Sequence[float]]) -> bool:
    """True if the reply is one box with IoU >= 0.5 to one of the reference boxes."""
    box = read_one_box(prediction)
    return box is not None and any(iou(box, _box(reference)) >= MIN_IOU for reference in boxes)


def fixed_box_accuracy(items: Sequence[Sequence[Sequence[float]]]) -> float:
    """Accuracy in [0, 1] of the same box for every item: the median of each side over all items."""
    box = _box(np.median([boxes[0] for boxes in items], axis=0).tolist())
    return float(np.mean([any(iou(box, _box(b)) >= MIN_IOU for b in boxes) for boxes in items]))


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in values)
    return (x0, y0, x1, y1)
