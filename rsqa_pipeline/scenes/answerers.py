"""The answerers of the instruction corpus: one reference, and several with consistent faults.

| answerer | habit |
|---|---|
| reference | right |
| hasty | sees wrong object and scene classes (`perception`), so its yes and no answers are wrong too |
| generalist | knows everyday terms and confuses hard ones, always in the same way |
| overcounter | counts one object too many in every group; its boxes are shifted to the lower right |
| guesser | sees wrong counts, colours and places |
| constant | the same answer to every question of a task: "yes", "2", "urban", A |
| rambler | many words, no answer |
| blank | a short reply that has nothing to do with the question |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rsqa_pipeline.scenes.asking import Question, ask, format_box
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
from rsqa_pipeline.scenes.truth import IMAGE_SIZE, Box, Group, SceneTruth

Answerer = Callable[[SceneTruth, Question], str]

_CONSTANT = {
    "presence": "yes",
    "count": "2",
    "comparison": "yes",
    "rural_urban": "urban",
    "scene_class": "airport",
    "choice": "A",
    "grounding": format_box((16, 16, 48, 48)),
    "open": "yes, there are two white houses in the image.",
}


def _one_more(truth: SceneTruth) -> SceneTruth:
    def change(group: Group) -> Group:
        return replace(group, count=group.count + 1, boxes=tuple(_shifted(box) for box in group.boxes))

    return replace(truth, groups=tuple(change(group) for group in truth.groups))


def _shifted(box: Box) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    x = min(box[0] + 8, IMAGE_SIZE - width)
    y = min(box[1] + 8, IMAGE_SIZE - height)
    return x, y, x + width, y + height


def _with_perception(habit: Perception) -> Answerer:
    return lambda truth, question: ask(habit(truth), question.question).answer


def _rambler(truth: SceneTruth, question: Question) -> str:
    return (
        "this image shows many things and there are several objects in this place, "
        "there may be some things here and there may be other things there, it is an image of an area."
    )


ANSWERERS: dict[str, Answerer] = {
    "reference": lambda truth, question: question.answer,
    "hasty": _with_perception(combine_habits(misname_scene, swap_objects)),
    "generalist": _with_perception(confuse_hard_terms),
    "overcounter": _with_perception(_one_more),
    "guesser": _with_perception(combine_habits(count_two_more, recolour, mirror)),
    "constant": lambda truth, question: _CONSTANT[question.task],
    "rambler": _rambler,
    "blank": lambda truth, question: "an image.",
}
