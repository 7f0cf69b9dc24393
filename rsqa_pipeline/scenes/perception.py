"""How a bad eye sees a scene: each habit turns the true scene into a wrong one, always in the same way.

Captioners and answerers describe the wrong scene in good language, so their faults are systematic: a weak captioner
that calls tanks houses does so in every image. A perceived count may exceed six and its boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rsqa_pipeline.scenes.truth import IMAGE_SIZE, Box, Group, SceneTruth

Perception = Callable[[SceneTruth], SceneTruth]


def _both_ways(pairs: dict[str, str]) -> dict[str, str]:
    return pairs | {b: a for a, b in pairs.items()}


OBJECT_TAKEN_FOR = _both_ways(
    {"ship": "airplane", "tank": "house", "car": "tree", "truck": "pool", "court": "warehouse"}
)
SCENE_TAKEN_FOR = _both_ways(
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
COLOUR_TAKEN_FOR = {
    "white": "red", "red": "blue", "blue": "green", "green": "yellow", "yellow": "black", "black": "white",
}  # fmt: skip
_MIRRORED = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def swap_objects(truth: SceneTruth) -> SceneTruth:
    """Takes every object class for another one."""
    return _groups(truth, lambda g: replace(g, object_class=OBJECT_TAKEN_FOR[g.object_class]))


def misname_scene(truth: SceneTruth) -> SceneTruth:
    """Takes the scene class for another one."""
    return replace(truth, scene_class=SCENE_TAKEN_FOR[truth.scene_class])


def count_two_more(truth: SceneTruth) -> SceneTruth:
    """Sees two objects too many in each group."""
    return _groups(truth, lambda g: replace(g, count=g.count + 2))


def recolour(truth: SceneTruth) -> SceneTruth:
    """Takes every colour for the next one."""
    return _groups(truth, lambda g: replace(g, colour=COLOUR_TAKEN_FOR[g.colour]))


def mirror(truth: SceneTruth) -> SceneTruth:
    """Mixes up left and right, top and bottom."""
    return _groups(truth, _mirrored)


def perceive(*habits: Perception) -> Perception:
    """Several habits at once."""

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
