"""Captions of graded quality. Each captioner after the first two is wrong or poor in its own consistent way.

| captioner | habit | dimension it fails (paper, five quality dimensions) |
|---|---|---|
| expert | none: scene, land cover, and for every group count, colour, class, activity and place | none |
| plain | right, but without colours, places and land cover | specificity |
| swapper, misnamer, counter, recolourer, misplacer | one wrong perception each, see `perception` | relevance |
| hasty | wrong scene class and wrong object classes | relevance, completeness |
| generalist | right on everyday terms, consistently wrong on hard ones (`confuse_hard_terms`) | relevance |
| guesser | wrong counts, colours and places | relevance |
| adder | right, then adds a bridge and vehicles that are not there | relevance |
| vague | "some things in an area" | specificity, completeness |
| forgetful | right, but leaves out the second group (with one group: like plain) | completeness |
| incomplete | names only the scene | completeness |
| layman | right counts, colours, places; no domain terms | richness |
| garbler | right words in broken order, some twice | clarity |
| mismatcher | the caption of another scene | relevance |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rsqa_pipeline.scenes.perception import (
    Perception,
    combine_habits,
    confuse_hard_terms,
    count_two_more,
    mirror,
    misname_scene,
    recolour,
    swap_objects,
)
from rsqa_pipeline.scenes.truth import CORPUS_SEEDS, Group, SceneTruth, relations, sample_scene
from rsqa_pipeline.scenes.vocabulary import PLACE_PHRASES, SCENES, activity, count_phrase

Captioner = Callable[[SceneTruth, np.random.Generator], str]

_VIEWS = ("an aerial photo", "a satellite image")


def _expert(truth: SceneTruth, rng: np.random.Generator) -> str:
    view = _VIEWS[rng.integers(2)]
    template = int(rng.integers(4))
    kind = SCENES[truth.scene_class]
    scene, within = f"{kind.phrase} with {kind.cover}", f"{kind.within} with {kind.cover}"
    if not truth.groups:
        return (
            f"{view} of {scene}.",
            f"this is {scene}.",
            f"{view} of {scene}, without other objects.",
            f"there are no objects {within}.",
        )[template]
    if template == 0:
        return f"{view} of {scene}. " + " ".join(statement(g, truth) for g in truth.groups)
    if template == 1:
        return f"this is {scene}, where " + " and ".join(_clause(g, truth) for g in truth.groups) + "."
    first, others = truth.groups[0], truth.groups[1:]
    if template == 2:
        return " ".join([f"{_clause(first, truth)} of {scene}.", *(statement(g, truth) for g in others)])
    joint = f", {relations(first.place, others[0].place)[0]} " if others else ""
    listed = joint.join(_noun_phrase(g, truth) for g in truth.groups)
    return f"there {'is' if first.count == 1 else 'are'} {listed}, {within}."


def _things(group: Group) -> str:
    number, noun = count_phrase(group.count, group.object_class).split(" ")
    return f"{number} {group.colour} {noun}"


def _noun_phrase(group: Group, truth: SceneTruth) -> str:
    return f"{_things(group)} {activity(group.object_class, truth.scene_class)} {PLACE_PHRASES[group.place]}"


def _clause(group: Group, truth: SceneTruth) -> str:
    verb = "is" if group.count == 1 else "are"
    doing = activity(group.object_class, truth.scene_class)
    return f"{_things(group)} {verb} {doing} {PLACE_PHRASES[group.place]}"


def statement(group: Group, truth: SceneTruth) -> str:
    """One sentence about a group: "two white ships are moored on the left."."""
    return _clause(group, truth) + "."


def _plain(truth: SceneTruth, rng: np.random.Generator) -> str:
    view = _VIEWS[rng.integers(2)]
    kind = SCENES[truth.scene_class]
    listed = " and ".join(count_phrase(g.count, g.object_class) for g in truth.groups)
    if not listed:
        return f"{view} of {kind.phrase}."
    if rng.integers(2):
        return f"{view} of {kind.phrase} with {listed}."
    return f"there {'is' if truth.groups[0].count == 1 else 'are'} {listed} {kind.within}."


def _forgetful(truth: SceneTruth, rng: np.random.Generator) -> str:
    if len(truth.groups) < 2:
        return _plain(truth, rng)
    return _expert(replace(truth, groups=truth.groups[:1]), rng)


def _vague(truth: SceneTruth, rng: np.random.Generator) -> str:
    few = ("some things", "several objects", "many things")[rng.integers(3)]
    return (f"an aerial photo of {few} in an area.", f"there are {few} in this place.", f"a picture with {few}.")[
        rng.integers(3)
    ]


def _incomplete(truth: SceneTruth, rng: np.random.Generator) -> str:
    return f"{_VIEWS[rng.integers(2)]} of {SCENES[truth.scene_class].phrase}."


def _layman(truth: SceneTruth, rng: np.random.Generator) -> str:
    listed = " and ".join(
        f"{count_phrase(g.count, 'thing').replace(' ', f' {g.colour} ')} {PLACE_PHRASES[g.place]}" for g in truth.groups
    )
    return f"a picture of a place with {listed}." if listed else "a picture of a place without things."


def _adder(truth: SceneTruth, rng: np.random.Generator) -> str:
    alien = next(name for name in ("truck", "airplane") if name not in SCENES[truth.scene_class].objects)
    return f"{_expert(truth, rng)} a bridge and two white {alien}s are nearby."


def _garbler(truth: SceneTruth, rng: np.random.Generator) -> str:
    words = _expert(truth, rng).replace(".", "").replace(",", "").split()
    broken: list[str] = []
    for start in range(0, len(words), 3):
        chunk = words[start : start + 3][::-1]
        broken.extend([*chunk, chunk[-1]] if start % 2 else chunk)
    return " ".join(broken)


def _mismatcher(truth: SceneTruth, rng: np.random.Generator) -> str:
    other = truth
    while other.scene_class == truth.scene_class:
        other = sample_scene(int(rng.integers(CORPUS_SEEDS.start, CORPUS_SEEDS.stop)))
    return _expert(other, rng)


def _with_perception(habit: Perception) -> Captioner:
    return lambda truth, rng: _expert(habit(truth), rng)


CAPTIONERS: dict[str, Captioner] = {
    "expert": _expert,
    "plain": _plain,
    "swapper": _with_perception(swap_objects),
    "misnamer": _with_perception(misname_scene),
    "counter": _with_perception(count_two_more),
    "recolourer": _with_perception(recolour),
    "misplacer": _with_perception(mirror),
    "hasty": _with_perception(combine_habits(misname_scene, swap_objects)),
    "generalist": _with_perception(confuse_hard_terms),
    "guesser": _with_perception(combine_habits(count_two_more, recolour, mirror)),
    "adder": _adder,
    "vague": _vague,
    "forgetful": _forgetful,
    "incomplete": _incomplete,
    "layman": _layman,
    "garbler": _garbler,
    "mismatcher": _mismatcher,
}
