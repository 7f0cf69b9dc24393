"""Boxes ``(x0, y0, x1, y1)`` in pixels of the stored image: how texts write them, and when a box is right.

=====================================================  ==========================================================
``[10, 20, 30, 40]``                                   this project's own form; Qwen2.5-VL's JSON ``bbox_2d``
``(10,20),(30,40)``                                    Qwen-VL, also within ``<|box_start|>`` or ``<box>`` marks
``{<25><30><50><60>|<90>}``                            GeoChat: turned by 90 degrees about its centre; MiniGPT-v2
``[10, 20, 30, 20, 30, 40]``, ``[[10, 20], [30, 40]]``  polygons and corners, as of DOTA; read as the box around them
=====================================================  ==========================================================

Units are never guessed: a box in fractions of the image is read as a tiny box in pixels, and is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Unit = Literal["pixels", "fraction", "0..100", "0..999", "0..1000"]
Order = Literal["corners", "xywh"]

MIN_IOU = 0.5
"""Smallest IoU of a right box (paper, evaluation: VG-DIOR)."""
_FULL_SIDE = {"fraction": 1.0, "0..100": 100.0, "0..999": 999.0, "0..1000": 1000.0}
"""What the width and the height of the image are in each relative unit."""
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_PAIR = rf"[(\[]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]"
_LIST = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3,}}\s*\]"
_POINTS = rf"\[\s*{_PAIR}(?:\s*,\s*{_PAIR})+\s*\]|\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)(?:\s*,\s*{_PAIR})+"
_BRACES = rf"\{{(?:\s*<\s*{_NUMBER}\s*>){{4}}(?:\s*\|\s*<\s*{_NUMBER}\s*>)?\s*\}}"
_SPAN = re.compile(f"(?P<braces>{_BRACES})|(?P<list>{_LIST})|(?P<points>{_POINTS})", re.IGNORECASE)
_MARKS = re.compile(r"<\|box_(?:start|end)\|>|</?box>")


@dataclass(frozen=True)
class Frame:
    """What the numbers of a box refer to, where that is not the stored image."""

    size: tuple[int, int]
    """Width and height in the unit ``pixels``."""
    area: Box
    """Where it lies in the stored image, in pixels of that; larger than the image where a model pads."""


class BoxError(ValueError):
    """A box that lies outside its image, has no area or is not in the declared unit."""


def read_boxes(text: str) -> list[Box]:
    """Every box in the text, in order of appearance, its corners in order; numbers are taken as pixels."""
    return [
        _around(points, angle) for span in _SPAN.finditer(text) if (found := _read(span, "corners"))
        for points, angle in [found]
    ]  # fmt: skip


def read_one_box(text: str | None) -> Box | None:
    """The box of a reply; None for no box, several boxes, or a box without area."""
    boxes = read_boxes(text or "")
    if len(boxes) != 1:
        return None
    x0, y0, x1, y1 = boxes[0]
    return boxes[0] if x1 > x0 and y1 > y0 else None


def in_pixels(text: str, size: tuple[int, int], unit: Unit, order: Order, frame: Frame | None = None) -> str:
    """The text with each box as ``[x0, y0, x1, y1]`` in pixels, rounded to tenths, without a model's box marks.

    Args:
        size: width and height of the image in pixels.
        order: whether four numbers in brackets are two corners, or a corner, width and height.
        frame: what the numbers refer to; by default the image.

    Raises:
        BoxError: a box lies outside the image or frame, has no area, or is smaller than one unit, so that another is
            meant.
    """

    of = frame or Frame(size, (0.0, 0.0, float(size[0]), float(size[1])))

    def rewrite(span: re.Match[str]) -> str:
        found = _read(span, order)
        return span[0] if found is None else _written(_checked(span[0], *found, size, unit, of))

    return _SPAN.sub(rewrite, _MARKS.sub("", text))


def has_box(text: str) -> bool:
    return bool(read_boxes(text))


def is_only_boxes(text: str) -> bool:
    """Whether the text is one or more boxes and nothing else, but marks and punctuation."""
    return has_box(text) and not re.search(r"\w", _SPAN.sub("", _MARKS.sub("", text)))


def is_own_form(text: str) -> bool:
    """Whether every box in the text is written as ``[x0, y0, x1, y1]``, which may be in any unit."""
    spans = [span for span in _SPAN.finditer(text) if _read(span, "corners")]
    return all(span["list"] and span[0].count(",") == 3 for span in spans) and not _MARKS.search(text)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union in [0, 1]: 1 for equal boxes; otherwise 0 for a box without area, i.e. with swapped or
    equal corners."""
    if tuple(a) == tuple(b):
        return 1.0
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


def any_box_hits(text: str | None, references: Sequence[Sequence[float]]) -> bool:
    """`is_hit` for a text with any number of boxes: one of them hits."""
    return any(iou(box, reference) >= MIN_IOU for box in read_boxes(text or "") for reference in references)


def _read(span: re.Match[str], order: Order) -> tuple[list[Point], float] | None:
    """The corners or the polygon of a span, and the angle in degrees; None for an odd count of coordinates."""
    numbers = [float(number) for number in re.findall(_NUMBER, span[0], re.IGNORECASE)]
    angle = numbers.pop() if span["braces"] and len(numbers) == 5 else 0.0
    if len(numbers) % 2:
        return None
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    if order == "xywh" and span["list"] and len(points) == 2:
        (x, y), (width, height) = points
        points = [(x, y), (x + width, y + height)]
    return points, angle


def _around(points: Sequence[Point], angle: float) -> Box:
    """The box around the points; a box with an angle is turned about its centre first, as in GeoChat's own code."""
    xs, ys = zip(*points, strict=True)
    x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    if not angle:
        return x0, y0, x1, y1
    cosine, sine = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    half_width = ((x1 - x0) * cosine + (y1 - y0) * sine) / 2
    half_height = ((x1 - x0) * sine + (y1 - y0) * cosine) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _checked(text: str, points: list[Point], angle: float, size: tuple[int, int], unit: Unit, frame: Frame) -> Box:
    """The box in pixels; of a turned box, or one of a larger frame, the part within the image. Raises BoxError."""
    full = (float(frame.size[0]), float(frame.size[1])) if unit == "pixels" else (_FULL_SIDE[unit],) * 2
    found = f"{text[:100]} in {unit}, image of {size[0]} x {size[1]} pixels"
    x0, y0, x1, y1 = _around(points, 0.0)
    if min(x0, y0) < 0 or x1 > full[0] or y1 > full[1]:
        raise BoxError(f"the box lies outside its image: {found}")
    if unit != "fraction" and x1 - x0 < 1 and y1 - y0 < 1:
        raise BoxError(f"the box is smaller than one unit; is it in fractions? {found}")
    left, top, right, bottom = frame.area
    scaled = [(left + x / full[0] * (right - left), top + y / full[1] * (bottom - top)) for x, y in points]
    a, b, c, d = _around(scaled, angle)
    box = max(a, 0.0), max(b, 0.0), min(c, float(size[0])), min(d, float(size[1]))
    x0, y0, x1, y1 = (round(value, 1) for value in box)
    if x1 <= x0 or y1 <= y0:
        raise BoxError(f"the box has no area: {found}")
    return x0, y0, x1, y1


def _written(box: Box) -> str:
    return f"[{', '.join(str(int(value)) if value.is_integer() else str(value) for value in box)}]"
