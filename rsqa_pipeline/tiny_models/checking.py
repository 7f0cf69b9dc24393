"""Right and wrong texts about a scene, for learning image-text matching.

A wrong text is the right text for a scene that differs in one random fact: a hard negative. It does not depend on any
captioner's habits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.scenes.captioners import CAPTIONERS, statement
from rsqa_pipeline.scenes.questions import Question, ask
from rsqa_pipeline.scenes.truth import Group, SceneTruth, relations
from rsqa_pipeline.scenes.vocabulary import COLOURS, OBJECTS, PLACES, SCENES
from rsqa_pipeline.tiny_models.language import Matched

_Value = TypeVar("_Value")

FAULTS: Sequence[str] = ("scene", "object", "colour", "number", "place", "answer")
"""What can be wrong in a text: one fact of a caption, or an answer."""
FAULT_SHARES: Sequence[Mapping[str, float]] = (
    dict.fromkeys(("scene", "object", "colour", "number", "place"), 0.2),
    {"scene": 0.1, "object": 0.2, "colour": 0.15, "number": 0.3, "place": 0.25},
    {"scene": 0.05, "object": 0.15, "colour": 0.4, "number": 0.15, "place": 0.25},
)
"""Share of each fault among altered texts, per part of the language phase: equal at first, then more of the faults that
were still detected badly after the previous part."""
WRITERS = ("expert", "expert", "plain")
"""Captioners of the texts to match; mostly the detailed one."""
COUNTS = [1, 2, 3, 4, 5, 6]
OTHER_SCENE_SHARE = 0.4
"""Share of the wrong answers that are right for another random scene; the rest are right for an altered scene."""
_MAX_ALTERATIONS = 4
"""Alterations to try until the answer to a question changes."""


def altered(truth: SceneTruth, fault: str, rng: np.random.Generator) -> tuple[SceneTruth, int]:
    """The scene with one fact changed, and the index of the changed group (0 for the scene class)."""
    if fault == "scene":
        return replace(truth, scene_class=_other(list(SCENES), truth.scene_class, rng)), 0
    index = int(rng.integers(len(truth.groups)))
    group = truth.groups[index]
    if fault == "object":
        changed = replace(group, object_class=_other(list(OBJECTS), group.object_class, rng))
    elif fault == "colour":
        changed = replace(group, colour=_other(list(COLOURS), group.colour, rng))
    elif fault == "number":
        changed = replace(group, count=_other(COUNTS, group.count, rng))
    else:
        others = truth.groups[:index] + truth.groups[index + 1 :]
        places = [place for place in PLACES if place != group.place and _has_relations(place, others)]
        changed = replace(group, place=_other(places, group.place, rng))
    return replace(truth, groups=(*truth.groups[:index], changed, *truth.groups[index + 1 :])), index


def matched_caption(image: int, truth: SceneTruth, shares: Mapping[str, float], rng: np.random.Generator) -> Matched:
    """A caption of the scene or, with probability 0.5, of an altered scene."""
    writer = CAPTIONERS[WRITERS[rng.integers(len(WRITERS))]]
    style = int(rng.integers(2**31))
    right = writer(truth, np.random.default_rng(style))
    if rng.random() < 0.5:
        return Matched(image, CAPTION_PROMPT, right, None)
    fault = _fault(truth, shares, rng)
    said = writer(altered(truth, fault, rng)[0], np.random.default_rng(style))
    return Matched(image, CAPTION_PROMPT, said, None if said == right else fault)


def matched_statement(image: int, truth: SceneTruth, shares: Mapping[str, float], rng: np.random.Generator) -> Matched:
    """One sentence about a group of objects, right or altered in one fact. The scene needs at least one group."""
    if rng.random() < 0.5:
        group = truth.groups[rng.integers(len(truth.groups))]
        return Matched(image, CAPTION_PROMPT, statement(group, truth), None)
    fault = _drawn({name: share for name, share in shares.items() if name != "scene"}, rng)
    other, index = altered(truth, fault, rng)
    return Matched(image, CAPTION_PROMPT, statement(other.groups[index], other), fault)


def matched_answer(
    image: int,
    truth: SceneTruth,
    question: Question,
    other: SceneTruth,
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> Matched:
    """The question's right answer or, with probability 0.5, the right answer for another or an altered scene."""
    said = question.answer
    if rng.random() < 0.5:
        if rng.random() < OTHER_SCENE_SHARE:
            said = ask(other, question.question).answer
        tries = 0
        while said == question.answer and tries < _MAX_ALTERATIONS:
            said = ask(altered(truth, _fault(truth, shares, rng), rng)[0], question.question).answer
            tries += 1
    return Matched(image, question.question, said, None if said == question.answer else "answer")


def _fault(truth: SceneTruth, shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """The fact to change in a scene: drawn by ``shares``; the scene class if there are no objects."""
    return _drawn(shares, rng) if truth.groups else "scene"


def _drawn(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[rng.choice(len(weights), p=weights / weights.sum())]


def _has_relations(place: str, others: tuple[Group, ...]) -> bool:
    """Whether a caption can relate a group at ``place`` to each of the other groups."""
    return all(relations(place, other.place) and relations(other.place, place) for other in others)


def _other(values: list[_Value], value: _Value, rng: np.random.Generator) -> _Value:
    left = [candidate for candidate in values if candidate != value]
    return left[rng.integers(len(left))]
