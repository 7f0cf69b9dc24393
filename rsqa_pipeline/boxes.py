"""Boxes ``(x0, y0, x1, y1)`` in pixels of the stored image, and when a box is right.

Units are never guessed: a box in fractions of the image is read as a tiny box in pixels, and is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]

MIN_IOU = 0.5
"""Smallest IoU of a right box (paper, evaluation: VG-DIOR)."""
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def read_boxes(text: str) -> list[Box]:
    """Every ``[x0, y0, x1, y1]`` in the text, in order of appearance."""
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in _BOX.findall(text)]


def read_one_box(text: str | None) -> Box | None:
    """The box of a reply; None for no box, several boxes, or a box without area."""
    boxes = read_boxes(text or "")
    if len(boxes) != 1:
        return None
    x0, y0, x1, y1 = boxes[0]
    return boxes[0] if x1 > x0 and y1 > y0 else None


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union in [0, 1]; 0 for a box without area, i.e. with swapped or equal corners."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    if width <= 0 or height <= 0 or 0.0 in areas:
        return 0.0
    return width * height / (sum(areas) - width * height)


def is_hit(text: str | None, references: Sequence[Sequence[float]]) -> bool:
    """True if the text holds exactly one box, and its IoU with one of the references is at least `MIN_IOU`."""
    box = read_one_box(text)
    return box is not None and any(iou(box, reference) >= MIN_IOU for reference in references)
