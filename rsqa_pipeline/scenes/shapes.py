"""Outlines of the object classes, seen from above, nose to +x, in units of the long side (-0.5..0.5)."""

from __future__ import annotations

import math

from rsqa_pipeline.scenes.vocabulary import OBJECTS

Point = tuple[float, float]

_AIRPLANE: tuple[Point, ...] = (
    (0.5, 0.0), (0.42, 0.065), (0.14, 0.075), (-0.12, 0.475), (-0.24, 0.475), (-0.1, 0.075),
    (-0.34, 0.055), (-0.43, 0.2), (-0.5, 0.2), (-0.46, 0.0), (-0.5, -0.2), (-0.43, -0.2), (-0.34, -0.055),
    (-0.1, -0.075), (-0.24, -0.475), (-0.12, -0.475), (0.14, -0.075), (0.42, -0.065),
)  # fmt: skip
_SHIP: tuple[Point, ...] = (
    (0.5, 0.0), (0.36, 0.13), (0.2, 0.18), (-0.42, 0.18), (-0.5, 0.12),
    (-0.5, -0.12), (-0.42, -0.18), (0.2, -0.18), (0.36, -0.13),
)  # fmt: skip
_CIRCLE: tuple[Point, ...] = tuple(
    (0.5 * math.cos(math.radians(a)), 0.5 * math.sin(math.radians(a))) for a in range(0, 360, 24)
)


def _outline(object_class: str) -> tuple[Point, ...]:
    if object_class in ("tank", "tree"):
        return _CIRCLE
    special = {"airplane": _AIRPLANE, "ship": _SHIP}
    half = OBJECTS[object_class].aspect / 2
    return special.get(object_class, ((0.5, half), (-0.5, half), (-0.5, -half), (0.5, -half)))


OUTLINES: dict[str, tuple[Point, ...]] = {name: _outline(name) for name in OBJECTS}


def transformed(points: tuple[Point, ...], length: float, heading: float, x: float, y: float) -> list[Point]:
    """Unit ``points`` scaled to ``length``, rotated by ``heading`` degrees (x towards y), moved to (x, y)."""
    cos, sin = length * math.cos(math.radians(heading)), length * math.sin(math.radians(heading))
    return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in points]
