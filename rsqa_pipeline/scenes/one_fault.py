"""A right text about a scene and three wrong ones, each with one fault of a known kind.

A caption with a fault is what the expert says, in the same words, about the scene with one thing changed: the count,
colour or place of a group, the class of an object or of the scene, or one group added. Where possible, the changed
scene is one that could have been sampled, so that the text alone does not reveal the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from rsqa_pipeline.scenes.asking import UNANSWERABLE, refusal
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.questions import contradicting_places
from rsqa_pipeline.scenes.truth import Group, SceneTruth, relations
from rsqa_pipeline.scenes.vocabulary import OBJECTS, PLACES, SCENES

T = TypeVar("T")

WRONG_TEXTS = 3

MADE_UP_ANSWERS = {
    "who owns this place?": ("a farmer owns this place.", "a bank owns this place.", "the city owns this place."),
    "what is the name of this place?": (
        "the name of this place is green river.", "it is the place of white sand.", "this place is called two ships.",
    ),
    "when was this image taken?": (
        "this image was taken at noon.", "this image was taken in the summer.", "this image was taken ten years ago.",
    ),
    "what is inside the {}s?": (
        "there is water inside the {}s.", "there are two cars inside the {}s.", "there is sand inside the {}s.",
    ),
    "how old are the {}s?": ("the {}s are two years old.", "the {}s are ten years old.", "the {}s are new."),
    "how fast are the {}s moving?": (
        "the {}s are moving ten metres per second.", "the {}s are moving fast.", "the {}s are not moving.",
    ),
}  # fmt: skip
"""Question of `UNANSWERABLE` -> answers that claim to know."""


@dataclass(frozen=True)
class TextSet:
    """A right text and three wrong ones about one image."""

    right: str
    wrong: tuple[str, ...]
    question: str | None = None
    """None: the texts are captions."""


Changes = Callable[[SceneTruth, np.random.Generator], Sequence[SceneTruth]]
"""Scenes that differ from the true one in one thing, the preferred ones first."""


def changed_counts(truth: SceneTruth, rng: np.random.Generator) -> list[SceneTruth]:
    """The first group with another number of objects."""
    if not truth.groups:
        return []
    first = truth.groups[0]
    numbers = [count for count in range(1, 7) if count != first.count and _fits(first.place, count)]
    return [_with_group(truth, 0, replace(first, count=count)) for count in _shuffled(numbers, rng)]


def changed_colours(truth: SceneTruth, rng: np.random.Generator) -> list[SceneTruth]:
    """One group in another of its possible colours."""
    for index, group in enumerate(truth.groups):
        colours = [colour for colour in _colours(group.object_class, truth.scene_class) if colour != group.colour]
        if len(colours) >= WRONG_TEXTS:
            return [_with_group(truth, index, replace(group, colour=colour)) for colour in _shuffled(colours, rng)]
    return []


def changed_places(truth: SceneTruth, rng: np.random.Generator) -> list[SceneTruth]:
    """The only group in another part of the image; with two groups, too few other places would be free."""
    if len(truth.groups) != 1:
        return []
    (group,) = truth.groups
    places = [place for place in contradicting_places(group.place) if _fits(place, group.count)]
    return [_with_group(truth, 0, replace(group, place=place)) for place in _shuffled(places, rng)]


def changed_classes(truth: SceneTruth, rng: np.random.Generator) -> list[SceneTruth]:
    """One object class changed if the scene class has a free one, then other scene classes, likely ones first."""
    found = []
    if truth.groups:
        first = truth.groups[0]
        free = [name for name in _absent_typical(truth) if first.colour in _colours(name, truth.scene_class)]
        found += [_with_group(truth, 0, replace(first, object_class=name)) for name in _shuffled(free, rng)[:1]]
    others = [name for name in SCENES if name != truth.scene_class]
    likely = [name for name in others if all(_occurs(group, name) for group in truth.groups)]
    unlikely = [name for name in others if name not in likely]
    return found + [replace(truth, scene_class=name) for name in _shuffled(likely, rng) + _shuffled(unlikely, rng)]


def invented_objects(truth: SceneTruth, rng: np.random.Generator) -> list[SceneTruth]:
    """A second group that is not there; next to two groups, a third one would be known by the number of groups."""
    if len(truth.groups) != 1:
        return []
    (shown,) = truth.groups
    typical = _absent_typical(truth)
    others = [name for name in OBJECTS if name != shown.object_class and name not in typical]
    found = []
    for name in _shuffled(typical, rng) + _shuffled(others, rng):
        colours = _colours(name, truth.scene_class)
        count = int(rng.integers(1, 4))
        places = [place for place in PLACES if relations(place, shown.place) and _fits(place, count)]
        colour, place = colours[rng.integers(len(colours))], places[rng.integers(len(places))]
        invented = replace(shown, object_class=name, colour=colour, count=count, place=place)
        found.append(replace(truth, groups=(shown, invented)))
    return found


CHANGES: dict[str, Changes] = {
    "count": changed_counts,
    "colour": changed_colours,
    "place": changed_places,
    "class": changed_classes,
    "invented_object": invented_objects,
}
"""Kind of fault -> the changed scenes that the expert describes."""


def expert_set(truth: SceneTruth, kind: str, rng: np.random.Generator) -> TextSet | None:
    """The expert's caption, and its captions of three scenes changed by ``kind``; None if the scene allows fewer."""
    changed = CHANGES[kind](truth, rng)[:WRONG_TEXTS]
    if len(changed) < WRONG_TEXTS:
        return None
    wording = int(rng.integers(2**32))
    right, *wrong = (CAPTIONERS["expert"](seen, np.random.default_rng(wording)) for seen in (truth, *changed))
    return TextSet(right, tuple(wrong))


def unanswerable_set(objects: Sequence[str], rng: np.random.Generator) -> TextSet:
    """A question that no image answers: the right answer says why, the wrong ones claim to know.

    Args:
        objects: object classes that the question may be about; without any it is about the place.
    """
    forms = [form for form in UNANSWERABLE if objects or "{}" not in form]
    form = forms[rng.integers(len(forms))]
    noun = objects[int(rng.integers(len(objects)))] if objects else ""
    wrong = tuple(answer.format(noun) for answer in MADE_UP_ANSWERS[form])
    return TextSet(refusal(UNANSWERABLE[form]), wrong, form.format(noun))


def _with_group(truth: SceneTruth, index: int, group: Group) -> SceneTruth:
    return replace(truth, groups=(*truth.groups[:index], group, *truth.groups[index + 1 :]))


def _fits(place: str, count: int) -> bool:
    """Whether scenes have groups of this size there: one object is never in a half, more than four in a quadrant."""
    half = 0 in PLACES[place]
    return count > 1 if half else count <= 4


def _colours(object_class: str, scene_class: str) -> list[str]:
    """Colours of the object class that can be seen in the scene class."""
    return [c for c in OBJECTS[object_class].colours if c not in SCENES[scene_class].hidden_colours]


def _absent_typical(truth: SceneTruth) -> list[str]:
    return [name for name in SCENES[truth.scene_class].objects if not truth.count_of(name)]


def _occurs(group: Group, scene_class: str) -> bool:
    return group.object_class in SCENES[scene_class].objects and group.colour in _colours(
        group.object_class, scene_class
    )


def _shuffled(values: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [values[index] for index in rng.permutation(len(values))]
