"""Answers that compete for a question: right ones, wrong ones by habit, and whether an answer is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy as np

from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate, Subject
from rsqa_pipeline.scenes.marks import box_iou
from rsqa_pipeline.scenes.questions import ANSWERERS, Question, ask
from rsqa_pipeline.scenes.truth import Box, SceneTruth
from rsqa_pipeline.source_pairs.class_questions import ClassQuestion, ClassTask, corrupt_answer
from rsqa_pipeline.source_pairs.corruption import CorruptionKind
from rsqa_pipeline.source_pairs.scene_classes import class_from_name
from rsqa_pipeline.source_pairs.split import unit_hash

OPEN = "open"
REFERENCE, OTHER_REFERENCE = "reference", "other_reference"
ANSWERERS_PER_QUESTION = 3
"""Answerers of the scenes that compete in an open-ended question, besides the stored answer and the VLM."""
WRONG_PER_QUESTION = 2
"""Wrong answers of a close-ended question that become pairs, besides the VLM's own."""
_FORMLESS = ("rambler", "blank")
"""Answerers whose replies are no answers at all: easily told, so one of them a question is enough."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SAME_BOX_IOU = 0.5
"""A box is right above this overlap (paper, evaluation: acc@IoU 0.5)."""


def question_of(subject: Subject) -> str:
    """The last question asked."""
    return [turn["content"] for turn in subject.context if turn["role"] == "user"][-1]


def is_right(task: str, answer: str, reference: str) -> bool:
    """Whether a close-ended answer is the reference: the same words, or for grounding a box of IoU > 0.5.

    Case, punctuation and spaces around do not matter. An answer that cannot be read as one is wrong.
    """
    if task == "grounding":
        found, wanted = _box(answer), _box(reference)
        return found is not None and wanted is not None and box_iou(found, wanted) > SAME_BOX_IOU
    return bool(_plain(answer)) and _plain(answer) == _plain(reference)


def scene_answers(subject: Subject, truth: SceneTruth, seed: int) -> list[Candidate]:
    """What the answerers of the scenes say: for a close-ended question nearly all, for an open-ended one a draw.

    As with captioners, the draw may miss the reference, so that the pairs also order poorer answers.
    """
    question: Question = ask(truth, question_of(subject))
    names = sorted(ANSWERERS, key=lambda name: unit_hash(str(seed), "answerer", name, subject.key))
    if subject.task == OPEN:
        names = names[:ANSWERERS_PER_QUESTION]
    else:
        names.remove(next(name for name in names if name in _FORMLESS))
    return [Candidate(subject, ANSWERERS[name](truth, question), name) for name in names]


def class_answers(subject: Subject, scene_class: str, reference: str, classes: list[str]) -> list[Candidate]:
    """The right answer to a question about the class of a real image, and what systematic habits make of it."""
    question = _class_question(subject)
    candidates = [Candidate(subject, reference, REFERENCE, NO_FAULT)]
    for kind in get_args(CorruptionKind):
        wrong = corrupt_answer(question, kind, scene_class, classes)
        if wrong is not None:
            candidates.append(Candidate(subject, wrong[0], kind, kind))
    return candidates


def other_references(subjects: Sequence[Subject], references: Mapping[str, str], seed: int) -> dict[str, Candidate]:
    """For each close-ended subject the right answer to another subject's question of the same task, but another answer.

    Without these the text alone would tell right from wrong: answerers who always count too many make every small
    number a right one. With them every answer is as often right as wrong.

    Args:
        references: right answer by the subject's key.
    """
    by_task: dict[str, list[str]] = {}
    for subject in subjects:
        by_task.setdefault(subject.task, []).append(references[subject.key])
    drawn: dict[str, Candidate] = {}
    for subject in subjects:
        right = references[subject.key]
        pool = [answer for answer in by_task[subject.task] if not is_right(subject.task, answer, right)]
        if pool:
            rng = np.random.default_rng(int(unit_hash(str(seed), "other reference", subject.key) * 2**52))
            drawn[subject.key] = Candidate(subject, pool[rng.integers(len(pool))], OTHER_REFERENCE)
    return drawn


def wrong_answers(
    task: str, reference: str, candidates: Sequence[Candidate], always: Sequence[Candidate], seed: int
) -> list[Candidate]:
    """The wrong ones among a close-ended question's candidates, each text once.

    Those in ``always`` (the VLM's) are all taken; of the others at most WRONG_PER_QUESTION, drawn by hash.
    """
    drawn = sorted(candidates, key=lambda c: unit_hash(str(seed), "wrong", c.subject.key, c.source))
    taken: dict[str, Candidate] = {}
    for candidate in always:
        if not is_right(task, candidate.text, reference):
            taken.setdefault(candidate.text, candidate)
    own = len(taken)
    for candidate in drawn:
        if len(taken) - own < WRONG_PER_QUESTION and not is_right(task, candidate.text, reference):
            taken.setdefault(candidate.text, candidate)
    return list(taken.values())


def _class_question(subject: Subject) -> ClassQuestion:
    """The question about a class, read back from its text."""
    text = question_of(subject)
    stem, *lines = text.split("\n")
    choices = tuple(class_from_name(words) for _, mark, words in (line.partition(". ") for line in lines) if mark)
    asked = re.search(r".*\ban? (.+)\?$", stem) if subject.task == "presence" else None
    return ClassQuestion(
        cast(ClassTask, subject.task), stem, class_from_name(asked[1]) if asked else None, choices or None
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _box(text: str) -> Box | None:
    """The box in a text, in whole pixels; None where the text does not hold four numbers."""
    numbers = [round(float(number)) for number in _NUMBER.findall(text)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None
