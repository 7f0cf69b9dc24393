"""Right and wrong answers about a scene, for a model that learns to tell them apart.

A wrong text is a right one about a scene that differs in one fact drawn at random, the hard negatives of image-text
matching; it has no captioner's habits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.questions import Question, ask
from rsqa_pipeline.scenes.truth import Group, SceneTruth, relations
from rsqa_pipeline.scenes.vocabulary import COLOURS, OBJECTS, PLACES, SCENES
from rsqa_pipeline.tiny_models.language import Answered

_Value = TypeVar("_Value")

WRITERS = ("expert", "expert", "plain")
"""Who writes the captions that are checked: mostly in full."""
COUNTS = [1, 2, 3, 4, 5, 6]


def altered(truth: SceneTruth, rng: np.random.Generator) -> SceneTruth:
    """The scene with one fact changed: its class, or a group's objects, colour, number or place."""
    fact = rng.integers(5) if truth.groups else 0
    if fact == 0:
        return replace(truth, scene_class=_other(list(SCENES), truth.scene_class, rng))
    at = int(rng.integers(len(truth.groups)))
    group = truth.groups[at]
    elsewhere = [p for p in PLACES if p != group.place and _stands_apart(p, truth.groups[:at] + truth.groups[at + 1 :])]
    changed = (
        replace(group, object_class=_other(list(OBJECTS), group.object_class, rng)),
        replace(group, colour=_other(list(COLOURS), group.colour, rng)),
        replace(group, count=_other(COUNTS, group.count, rng)),
        replace(group, place=_other(elsewhere, group.place, rng)),
    )[fact - 1]
    return replace(truth, groups=(*truth.groups[:at], changed, *truth.groups[at + 1 :]))


def _stands_apart(place: str, others: tuple[Group, ...]) -> bool:
    """Whether a caption can say how a group at ``place`` lies to the other groups."""
    return all(relations(place, other.place) and relations(other.place, place) for other in others)


def checked_caption(image: int, truth: SceneTruth, rng: np.random.Generator) -> Answered:
    """A caption of the scene or, as often, of an altered one, and whether it is right."""
    writer = CAPTIONERS[WRITERS[rng.integers(len(WRITERS))]]
    style = int(rng.integers(2**31))
    right = writer(truth, np.random.default_rng(style))
    said = right if rng.random() < 0.5 else writer(altered(truth, rng), np.random.default_rng(style))
    return Answered(image, CAPTION_PROMPT, "yes" if said == right else "no", said)


def checked_answer(image: int, question: Question, other: SceneTruth, rng: np.random.Generator) -> Answered:
    """The question's right answer or, as often, what would be right for another scene, and whether it is right."""
    said = question.answer if rng.random() < 0.5 else ask(other, question.question).answer
    return Answered(image, question.question, "yes" if said == question.answer else "no", said)


def _other(values: list[_Value], value: _Value, rng: np.random.Generator) -> _Value:
    left = [candidate for candidate in values if candidate != value]
    return left[rng.integers(len(left))]
