"""Marks of boxes: exactly one box in pixels of the stored image, right at IoU 0.5 or more (paper, evaluation:
VG-DIOR).

Boxes are never guessed to be fractions: a reply in other units is a wrong reply.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsqa_pipeline.rl_policy.rewards import Box, iou, read_boxes

THRESHOLD = 0.5
"""Least IoU of a right box."""


def read_one_box(prediction: str | None) -> Box | None:
    """The ``[x0, y0, x1, y1]`` of a reply, pixels; None where there is none, several, or one without area."""
    boxes = read_boxes(prediction or "")
    if len(boxes) != 1:
        return None
    x0, y0, x1, y1 = boxes[0]
    return boxes[0] if x1 > x0 and y1 > y0 else None


def is_hit(prediction: str | None, boxes: Sequence[Sequence[float]]) -> bool:
    """True where the reply is one box that meets one of the reference boxes with IoU >= 0.5."""
    box = read_one_box(prediction)
    return box is not None and any(iou(box, _box(reference)) >= THRESHOLD for reference in boxes)


def fixed_box_accuracy(items: Sequence[Sequence[Sequence[float]]]) -> float:
    """Accuracy in [0, 1] of one box for every item, unseen: the median of each side over all items."""
    box = _box(np.median([boxes[0] for boxes in items], axis=0).tolist())
    return float(np.mean([any(iou(box, _box(b)) >= THRESHOLD for b in boxes) for boxes in items]))


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (float(value) for value in values)
    return (x0, y0, x1, y1)
