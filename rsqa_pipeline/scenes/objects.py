"""The object classes: each has an outline, a shadow and a few details that identify it at ten pixels."""

from __future__ import annotations

import math

from rsqa_pipeline.scenes.canvas import SCALE, Canvas, Colour
from rsqa_pipeline.scenes.shapes import OUTLINES, Point, transformed
from rsqa_pipeline.scenes.truth import Box, Group
from rsqa_pipeline.scenes.vocabulary import COLOURS, OBJECTS

_SURROUND: Colour = (204, 200, 190)
_WHITE: Colour = (238, 240, 236)


def draw_shadow(canvas: Canvas, group: Group, box: Box, heading: float) -> None:
    """The object's shadow, as long as the class is high; drawn before all objects."""
    pixels = group.length / canvas.truth.gsd
    reach = OBJECTS[group.object_class].height * pixels
    if reach == 0:
        return
    sun = math.radians(canvas.truth.effects.sun)
    x, y = _centre(box)
    outline = transformed(OUTLINES[group.object_class], pixels, heading, x, y)
    for share in (0.5, 1.0):
        dx, dy = share * reach * math.cos(sun), share * reach * math.sin(sun)
        canvas.shade([(px + dx, py + dy) for px, py in outline], 110 if share == 1 else 70)


def draw_object(canvas: Canvas, group: Group, box: Box, heading: float) -> None:
    """The object itself, centred in its box."""
    brush = _Brush(canvas, group, box, heading)
    _DETAILS[group.object_class](brush)


class _Brush:
    """Draws in an object's own frame, in units of its long side."""

    def __init__(self, canvas: Canvas, group: Group, box: Box, heading: float) -> None:
        self.canvas = canvas
        self.length = group.length / canvas.truth.gsd
        self.heading = heading
        self.x, self.y = _centre(box)
        self.colour: Colour = COLOURS[group.colour]
        self.outline = OUTLINES[group.object_class]

    def area(self, points: tuple[Point, ...], colour: Colour) -> None:
        self.canvas.polygon(transformed(points, self.length, self.heading, self.x, self.y), colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.area(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A circle at (x, y) of the unrotated frame, because light does not depend on the heading."""
        cx, cy, r = self.x + x * self.length, self.y + y * self.length, radius * self.length
        corners = [(c * SCALE) for c in (cx - r, cy - r, cx + r, cy + r)]
        self.canvas.draw.ellipse(corners, fill=colour)

    def tone(self, factor: float) -> Colour:
        """The object's colour, darker (below 1) or lighter (above 1)."""
        r, g, b = (round(c * factor if factor <= 1 else c + (255 - c) * (factor - 1)) for c in self.colour)
        return r, g, b

    def light(self) -> Point:
        """Unit direction towards the sun."""
        sun = math.radians(self.canvas.truth.effects.sun)
        return -math.cos(sun), -math.sin(sun)


def _centre(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _airplane(brush: _Brush) -> None:
    brush.area(brush.outline, brush.colour)
    brush.box(-0.4, -0.02, 0.36, 0.02, brush.tone(0.72))
    brush.box(0.0, 0.2, 0.1, 0.26, brush.tone(0.6))
    brush.box(0.0, -0.26, 0.1, -0.2, brush.tone(0.6))


def _ship(brush: _Brush) -> None:
    brush.area(brush.outline, brush.colour)
    brush.box(-0.22, -0.06, 0.3, 0.06, brush.tone(0.72))
    brush.box(-0.42, -0.1, -0.26, 0.1, (206, 206, 202))


def _car(brush: _Brush) -> None:
    brush.area(brush.outline, brush.colour)
    brush.box(0.12, -0.19, 0.24, 0.19, (44, 50, 60))
    brush.box(-0.4, -0.19, -0.3, 0.19, (44, 50, 60))
    brush.box(-0.26, -0.17, 0.08, 0.17, brush.tone(1.18))


def _truck(brush: _Brush) -> None:
    brush.area(brush.outline, brush.tone(0.9))
    brush.box(0.24, -0.2, 0.3, 0.2, (40, 42, 48))
    brush.box(0.36, -0.17, 0.43, 0.17, (52, 58, 68))
    brush.box(-0.46, -0.16, 0.2, 0.16, brush.tone(1.12))


def _house(brush: _Brush) -> None:
    brush.area(brush.outline, brush.tone(0.7))
    brush.area(((-0.5, -0.4), (0.5, -0.4), (0.2, 0.0), (-0.2, 0.0)), brush.tone(1.0))
    brush.area(((-0.5, -0.4), (-0.2, 0.0), (-0.5, 0.4)), brush.tone(0.86))
    brush.area(((0.5, -0.4), (0.2, 0.0), (0.5, 0.4)), brush.tone(0.86))


def _tank(brush: _Brush) -> None:
    brush.disc(0, 0, 0.5, brush.tone(0.66))
    x, y = brush.light()
    brush.disc(0.04 * x, 0.04 * y, 0.43, brush.colour)
    brush.disc(0.16 * x, 0.16 * y, 0.16, brush.tone(1.35))


def _tree(brush: _Brush) -> None:
    x, y = brush.light()
    brush.disc(0, 0, 0.42, brush.tone(0.62))
    for k in range(6):
        angle = math.radians(brush.heading + 60 * k)
        brush.disc(0.3 * math.cos(angle), 0.3 * math.sin(angle), 0.19, brush.tone(0.74 if k % 2 else 0.66))
    for k in range(3):
        angle = math.radians(brush.heading + 120 * k)
        brush.disc(0.14 * math.cos(angle) + 0.1 * x, 0.14 * math.sin(angle) + 0.1 * y, 0.15, brush.tone(1.0))


def _pool(brush: _Brush) -> None:
    brush.area(brush.outline, _SURROUND)
    brush.box(-0.4, -0.19, 0.4, 0.19, brush.tone(1.12))
    brush.box(-0.4, -0.19, 0.4, -0.12, brush.tone(1.45))


def _court(brush: _Brush) -> None:
    brush.area(brush.outline, brush.colour)
    brush.box(-0.4, -0.2, 0.4, -0.15, _WHITE)
    brush.box(-0.4, 0.15, 0.4, 0.2, _WHITE)
    for x in (-0.4, -0.025, 0.35):
        brush.box(x, -0.2, x + 0.05, 0.2, _WHITE)


def _warehouse(brush: _Brush) -> None:
    brush.area(brush.outline, brush.colour)
    for x in (-0.5, -0.25, 0.0, 0.25):
        brush.box(x, -0.31, x + 0.09, 0.31, brush.tone(0.62))
    brush.box(-0.5, -0.02, 0.5, 0.02, brush.tone(1.4))


_DETAILS = {
    "airplane": _airplane,
    "ship": _ship,
    "car": _car,
    "truck": _truck,
    "house": _house,
    "tank": _tank,
    "tree": _tree,
    "pool": _pool,
    "court": _court,
    "warehouse": _warehouse,
}
