"""The drawing surface of one scene, at three times the image size, with a coordinate frame for the ground structure.

The frame's origin is the image centre; u points towards the structure's side, v across it. Both are in pixels of the
final image. The frame is rotated by the scene's rotation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rsqa_pipeline.scenes.truth import IMAGE_SIZE, SceneTruth
from rsqa_pipeline.scenes.vocabulary import PLACES

SCALE = 3
Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """Draws in the structure's frame (`strip`, `quad`, `spot`, `line`) or in image pixels (`polygon`, `shade`)."""

    def __init__(self, truth: SceneTruth, rng: np.random.Generator) -> None:
        self.truth = truth
        self.rng = rng
        self.image = Image.new("RGB", (IMAGE_SIZE * SCALE, IMAGE_SIZE * SCALE))
        self.draw = ImageDraw.Draw(self.image)
        self.overlay = ImageDraw.Draw(self.image, "RGBA")
        x, y = PLACES[truth.side]
        angle = math.atan2(y, x) + math.radians(truth.effects.rotation)
        self.cos, self.sin = math.cos(angle) * SCALE, math.sin(angle) * SCALE

    def at(self, u: float, v: float) -> Point:
        """Canvas position of a point in the structure's frame."""
        middle = IMAGE_SIZE / 2 * SCALE
        return middle + u * self.cos - v * self.sin, middle + u * self.sin + v * self.cos

    def fill(self, colour: Colour) -> None:
        self.image.paste(colour, (0, 0, *self.image.size))

    def quad(self, u0: float, v0: float, u1: float, v1: float, colour: Colour) -> None:
        self.draw.polygon([self.at(u0, v0), self.at(u1, v0), self.at(u1, v1), self.at(u0, v1)], fill=colour)

    def strip(self, u0: float, u1: float, colour: Colour) -> None:
        """A band across the whole image."""
        self.quad(u0, -64, u1, 64, colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line through points of the frame; ``width`` in image pixels."""
        self.draw.line([self.at(u, v) for u, v in points], fill=colour, width=max(1, round(width * SCALE)))

    def area(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon([self.at(u, v) for u, v in points], fill=colour)

    def spot(self, u: float, v: float, radius: float, colour: Colour) -> None:
        x, y = self.at(u, v)
        r = radius * SCALE
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def spots(self, count: int, radius: tuple[float, float], colours: Sequence[Colour], u: tuple[float, float]) -> None:
        """Random dots with u in a range, for bushes and other clutter."""
        draws = self.rng.random((count, 4)).tolist()
        for a, b, c, d in draws:
            where = u[0] + a * (u[1] - u[0]), -44 + 88 * b
            self.spot(*where, radius[0] + c * (radius[1] - radius[0]), colours[int(d * len(colours))])

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A polygon in image pixels."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def shade(self, points: Sequence[Point], strength: int) -> None:
        """A dark, translucent polygon in image pixels; ``strength`` 0..255."""
        self.overlay.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=(12, 16, 24, strength))

    def wave(self, base: float, height: float, length: float, phase: float, step: int = 6) -> list[Point]:
        """A wavy line along v at u = ``base``, as points of the frame."""
        return [(base + height * math.sin((v + phase) / length * 2 * math.pi), float(v)) for v in range(-48, 49, step)]
