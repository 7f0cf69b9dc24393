"""The truth graph of a scene: class, scale, groups of objects, their places and relations, and sensor effects.

The seed defines the scene: `sample_scene` always gives the same truth for it, and `render.render` the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rsqa_pipeline.scenes.shapes import OUTLINES, transformed
from rsqa_pipeline.scenes.vocabulary import OBJECTS, PLACES, SCENES, ObjectKind

IMAGE_SIZE = 64
CELL = 16
"""Side of a cell of the 4 x 4 grid that objects are placed in, in pixels."""

CORPUS_SEEDS = range(0, 1_000_000)
INSTRUCTION_SEEDS = range(1_000_000, 2_000_000)
BENCHMARK_SEEDS = range(2_000_000, 3_000_000)
PROBE_SEEDS = range(3_000_000, 4_000_000)
"""Unseen scenes for measuring the shipped models."""
PRETRAIN_SEEDS = range(10_000_000, 20_000_000)

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x to the right, y down; x1 and y1 are exclusive."""

_SCENE_NAMES = tuple(SCENES)
_SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Group:
    """Objects of one class and colour, close together."""

    object_class: str
    colour: str
    count: int
    """1..6"""
    place: str
    """A key of `vocabulary.PLACES`."""
    boxes: tuple[Box, ...]
    length: float
    """Long side of each object in metres."""
    headings: tuple[float, ...]
    """Degrees from +x towards +y, one per object."""


@dataclass(frozen=True)
class Effects:
    """Effects of sensor, air and sun on the image."""

    haze: float
    """0 (clear) .. 0.35, share of white mixed in."""
    noise: float
    """Standard deviation in grey levels of 255."""
    blur: float
    """Radius in pixels, 0 .. 0.7."""
    sun: float
    """Direction of the shadows, in degrees from +x towards +y."""
    rotation: float
    """Rotation of the ground structure, in degrees."""


@dataclass(frozen=True)
class SceneTruth:
    """Everything that is known about a scene."""

    seed: int
    scene_class: str
    gsd: float
    """Metres per pixel."""
    side: str
    """Where the ground structure (water, apron) lies: left, right, top or bottom."""
    groups: tuple[Group, ...]
    """0 to 2 groups, of different object classes and not overlapping."""
    effects: Effects

    def group_of(self, object_class: str) -> Group | None:
        return next((group for group in self.groups if group.object_class == object_class), None)

    def count_of(self, object_class: str) -> int:
        group = self.group_of(object_class)
        return group.count if group else 0


def sample_scene(seed: int) -> SceneTruth:
    """The scene of a seed (0 or more). Deterministic."""
    rng = np.random.default_rng((seed, 0))
    scene_class = _SCENE_NAMES[rng.integers(len(_SCENE_NAMES))]
    kind = SCENES[scene_class]
    gsd = round(float(rng.uniform(*kind.gsd)), 3)
    placed = _place_groups(rng, kind.objects)
    side = _side(rng, [(name, place) for name, place, _ in placed], kind.on_structure)
    spread = 2.0 if kind.axis else 14.0
    effects = Effects(
        haze=round(max(0.0, float(rng.uniform(-0.2, 0.35))), 3),
        noise=round(float(rng.uniform(1, 9)), 2),
        blur=round(max(0.0, float(rng.uniform(-0.7, 0.7))), 2),
        sun=round(float(rng.uniform(0, 360)), 1),
        rotation=round(float(rng.uniform(-spread, spread)), 1),
    )
    axis = None
    if kind.axis:
        upright = (side in ("left", "right")) == (kind.axis == "along")
        axis = (90.0 if upright else 0.0) + effects.rotation
    groups = tuple(
        _build_group(rng, name, place, cells, gsd, kind.hidden_colours, axis) for name, place, cells in placed
    )
    return SceneTruth(seed, scene_class, gsd, side, groups, effects)


def relations(first: str, second: str) -> tuple[str, ...]:
    """Position of a group at place ``first`` relative to one at place ``second``: ("to the left of", "above").

    Only relations that hold for all objects of the two groups.
    """
    (ax, ay), (bx, by) = PLACES[first], PLACES[second]
    found = []
    if ax * bx < 0:
        found.append("to the left of" if ax < bx else "to the right of")
    if ay * by < 0:
        found.append("above" if ay < by else "below")
    return tuple(found)


def _place_groups(rng: np.random.Generator, objects: tuple[str, ...]) -> list[tuple[str, str, list[int]]]:
    """Draws the object class, place and grid cells of each group."""
    draw = rng.random()
    number = 0 if draw < 0.06 else 1 if draw < 0.42 else 2
    names = rng.permutation(len(objects)).tolist()
    if rng.random() < 0.4:  # the most typical class first
        names.sort(key=bool)
    placed: list[tuple[str, str, list[int]]] = []
    for index in range(number):
        count = int(rng.integers(1, 7 if index == 0 else 4))
        taken = placed[0][1] if placed else None
        half = count > 4 or (count > 1 and rng.random() < 0.5)
        places = [
            place
            for place, (x, y) in PLACES.items()
            if (x == 0 or y == 0) == half and (taken is None or relations(place, taken))
        ]
        place = places[rng.integers(len(places))]
        placed.append((objects[names[index]], place, _cells(rng, place, count)))
    return placed


def _cells(rng: np.random.Generator, place: str, count: int) -> list[int]:
    """``count`` cells (row * 4 + column) of the place; a half gets at least one in each of its quadrants."""
    x, y = PLACES[place]
    quadrants = [(qx, qy) for qx in (-1, 1) for qy in (-1, 1) if x in (0, qx) and y in (0, qy)]
    spare: list[int] = []
    chosen: list[int] = []
    for qx, qy in quadrants:
        column, row = (0 if qx < 0 else 2), (0 if qy < 0 else 2)
        cells = [(row + r) * 4 + column + c for r in (0, 1) for c in (0, 1)]
        order = rng.permutation(4)
        chosen.append(cells[order[0]])
        spare.extend(cells[i] for i in order[1:])
    extra = rng.permutation(len(spare))[: count - len(chosen)]
    return chosen + [spare[i] for i in extra]


def _side(rng: np.random.Generator, placed: list[tuple[str, str]], on_structure: tuple[str, ...]) -> str:
    """The structure's side: under the objects that belong on it, or away from those that do not."""
    if not placed:
        return _SIDES[rng.integers(4)]
    name, place = next((p for p in placed if p[0] in on_structure), placed[0])
    sign = 1 if name in on_structure else -1
    x, y = PLACES[place]
    ways = [(sign * x, 0.0)] * (x != 0) + [(0.0, sign * y)] * (y != 0)
    other = next((p[1] for p in placed if p[0] != name), None)
    if other is not None:  # the other group must lie across the structure's edge
        ox, oy = PLACES[other]
        ways = [w for w in ways if (w[0] * ox + w[1] * oy) * sign < 0] or ways
    way = ways[rng.integers(len(ways))]
    return next(side for side in _SIDES if PLACES[side] == way)


def _build_group(
    rng: np.random.Generator,
    name: str,
    place: str,
    cells: list[int],
    gsd: float,
    hidden: tuple[str, ...],
    axis: float | None,
) -> Group:
    kind: ObjectKind = OBJECTS[name]
    colours = [colour for colour in kind.colours if colour not in hidden]
    colour = colours[rng.integers(len(colours))]
    low, high = max(kind.length[0], 8 * gsd), min(kind.length[1], 14.5 * gsd)
    length = round(float(rng.uniform(low, high)), 2)
    base = float(rng.uniform(0, 360)) if axis is None else axis + 180 * int(rng.integers(2))
    jitter = 8.0 if axis is None else 2.0
    boxes, headings = [], []
    for cell in cells:
        heading = round((base + float(rng.uniform(-jitter, jitter))) % 360, 1)
        boxes.append(_box(rng, cell, transformed(OUTLINES[name], length / gsd, heading, 0, 0), axis))
        headings.append(heading)
    return Group(name, colour, len(cells), place, tuple(boxes), length, tuple(headings))


def _box(rng: np.random.Generator, cell: int, outline: list[tuple[float, float]], axis: float | None) -> Box:
    """Bounding box of an object at a random offset in its cell."""
    row, column = divmod(cell, 4)
    xs, ys = [p[0] for p in outline], [p[1] for p in outline]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    shift = rng.uniform(-1, 1, 2)
    dx, dy = (shift[i] * (max(0.0, CELL - extent) / 2 + 0.5) for i, extent in enumerate((width, height)))
    if axis is not None:  # lanes and bays are half a cell wide
        across = math.copysign(4, shift[0]) + 0.4 * shift[1]
        dx, dy = (across, dy) if width < height else (dx, across)
    x = min(max(column * CELL + CELL / 2 + dx, width / 2), IMAGE_SIZE - width / 2)
    y = min(max(row * CELL + CELL / 2 + dy, height / 2), IMAGE_SIZE - height / 2)
    left, top = math.floor(x - width / 2 + 0.3), math.floor(y - height / 2 + 0.3)
    right, bottom = math.ceil(x + width / 2 - 0.3), math.ceil(y + height / 2 - 0.3)
    return max(0, left), max(0, top), min(IMAGE_SIZE, right), min(IMAGE_SIZE, bottom)
