"""Systematic misperceptions: each habit turns the true scene into a wrong one, always in the same way.

Captioners and answerers describe the wrong scene in good language, so their faults are systematic: a weak captioner
that calls tanks houses does so in every image. A perceived count may exceed six and the number of boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rsqa_pipeline.scenes.truth import IMAGE_SIZE, Box, Group, SceneTruth

Perception = Callable[[SceneTruth], SceneTruth]


def _symmetric(pairs: dict[str, str]) -> dict[str, str]:
    return pairs | {b: a for a, b in pairs.items()}


WRONG_OBJECT = _symmetric({"ship": "airplane", "tank": "house", "car": "tree", "truck": "pool", "court": "warehouse"})
WRONG_SCENE = _symmetric(
    {
        "airport": "highway",
        "harbour": "beach",
        "farmland": "sparse_residential",
        "forest": "river",
        "dense_residential": "storage_tanks",
        "parking": "desert",
        "stadium": "golf_course",
    }
)
WRONG_COLOUR = {
    "white": "red", "red": "blue", "blue": "green", "green": "yellow", "yellow": "black", "black": "white",
}  # fmt: skip
HARD_OBJECTS = _symmetric({"truck": "pool", "court": "warehouse"}) | {"tank": "house"}
"""Terms that only a specialist knows, with what the others take the object for. A house is an everyday term."""
HARD_SCENES = _symmetric({"stadium": "golf_course", "dense_residential": "storage_tanks"}) | {
    "harbour": "beach",
    "desert": "parking",
    "sparse_residential": "farmland",
}
_MIRRORED = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def swap_objects(truth: SceneTruth) -> SceneTruth:
    """Mistakes every object class for another one."""
    return _groups(truth, lambda g: replace(g, object_class=WRONG_OBJECT[g.object_class]))


def misname_scene(truth: SceneTruth) -> SceneTruth:
    """Mistakes the scene class for another one."""
    return replace(truth, scene_class=WRONG_SCENE[truth.scene_class])


def count_two_more(truth: SceneTruth) -> SceneTruth:
    """Counts two objects too many in each group."""
    return _groups(truth, lambda g: replace(g, count=g.count + 2))


def recolour(truth: SceneTruth) -> SceneTruth:
    """Mistakes every colour for the next one."""
    return _groups(truth, lambda g: replace(g, colour=WRONG_COLOUR[g.colour]))


def mirror(truth: SceneTruth) -> SceneTruth:
    """Swaps left and right, top and bottom."""
    return _groups(truth, _mirrored)


def confuse_hard_terms(truth: SceneTruth) -> SceneTruth:
    """Knows everyday terms, and takes the things of HARD_OBJECTS and HARD_SCENES for their counterparts.

    An object keeps its name where its counterpart is in the scene too: two groups of one class cannot be told apart.
    """
    shown = {group.object_class for group in truth.groups}

    def confused(group: Group) -> Group:
        other = HARD_OBJECTS.get(group.object_class)
        return group if other is None or other in shown else replace(group, object_class=other)

    return replace(_groups(truth, confused), scene_class=HARD_SCENES.get(truth.scene_class, truth.scene_class))


def combine_habits(*habits: Perception) -> Perception:
    """A perception that applies several habits in turn."""

    def seen(truth: SceneTruth) -> SceneTruth:
        for habit in habits:
            truth = habit(truth)
        return truth

    return seen


def _groups(truth: SceneTruth, change: Callable[[Group], Group]) -> SceneTruth:
    return replace(truth, groups=tuple(change(group) for group in truth.groups))


def _mirrored(group: Group) -> Group:
    place = " ".join(_MIRRORED[word] for word in group.place.split())
    vertical, horizontal = ("top" in place or "bottom" in place), ("left" in place or "right" in place)

    def flip(box: Box) -> Box:
        x0, y0, x1, y1 = box
        x0, x1 = (IMAGE_SIZE - x1, IMAGE_SIZE - x0) if horizontal else (x0, x1)
        y0, y1 = (IMAGE_SIZE - y1, IMAGE_SIZE - y0) if vertical else (y0, y1)
        return x0, y0, x1, y1

    return replace(group, place=place, boxes=tuple(flip(box) for box in group.boxes))
