"""Candidate answers to a question, correct and systematically wrong, and the test of whether an answer is correct."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy as np

from rsqa_pipeline.answer_matching import same_answer
from rsqa_pipeline.boxes import is_hit, read_boxes
from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate, Subject
from rsqa_pipeline.scenes.corpus import CORPUS_ONLY
from rsqa_pipeline.scenes.questions import ANSWERERS, Question, ask
from rsqa_pipeline.scenes.truth import SceneTruth
from rsqa_pipeline.source_pairs.class_questions import ClassQuestion, ClassTask, corrupt_answer
from rsqa_pipeline.source_pairs.corruption import CorruptionKind
from rsqa_pipeline.source_pairs.scene_classes import class_from_name
from rsqa_pipeline.source_pairs.split import unit_hash

OPEN = "open"
REFERENCE, OTHER_REFERENCE = "reference", "other_reference"
ANSWERERS_PER_QUESTION = 3
"""Scene answerers that compete on an open-ended question, besides the stored answer and the VLM."""
MAX_WRONG_PER_QUESTION = 2
"""Limit on the wrong answers to a close-ended question that become pairs, besides the VLM's own."""
_NON_ANSWERERS = ("rambler", "blank")
"""Answerers whose replies are not answers at all. They are easy to recognise, so one per question is enough."""


def question_of(subject: Subject) -> str:
    """The last question asked."""
    return [turn["content"] for turn in subject.context if turn["role"] == "user"][-1]


def is_right(task: str, answer: str, reference: str) -> bool:
    """Whether a close-ended answer matches the reference (`answer_matching`, `boxes`). An unreadable one is wrong."""
    return is_hit(answer, read_boxes(reference)) if task == "grounding" else same_answer(answer, reference)


def scene_answers(subject: Subject, truth: SceneTruth, seed: int) -> list[Candidate]:
    """Answers by scene answerers: nearly all of them for a close-ended question, some drawn by hash for an
    open-ended one.

    As with captioners, the draw may leave out the reference, so that the pairs also order poorer answers.
    """
    question: Question = ask(truth, question_of(subject))
    met = [name for name in ANSWERERS if name not in CORPUS_ONLY]
    names = sorted(met, key=lambda name: unit_hash(str(seed), "answerer", name, subject.key))
    if subject.task == OPEN:
        names = names[:ANSWERERS_PER_QUESTION]
    else:
        names.remove(next(name for name in names if name in _NON_ANSWERERS))
    return [Candidate(subject, ANSWERERS[name](truth, question), name) for name in names]


def class_answers(subject: Subject, scene_class: str, reference: str, classes: list[str]) -> list[Candidate]:
    """The correct answer to a question about a real image's class, and the wrong answers that corruptions make of
    it."""
    question = _class_question(subject)
    candidates = [Candidate(subject, reference, REFERENCE, NO_FAULT)]
    for kind in get_args(CorruptionKind):
        wrong = corrupt_answer(question, kind, scene_class, classes)
        if wrong is not None:
            candidates.append(Candidate(subject, wrong[0], kind, kind))
    return candidates


def other_references(subjects: Sequence[Subject], references: Mapping[str, str], seed: int) -> dict[str, Candidate]:
    """For each close-ended subject, a wrong answer that is correct for another subject's question of the same task.

    Without these pairs the text alone would separate right from wrong: answerers that always count too many make every
    small number a correct one. With them, every answer is correct as often as it is wrong.

    Args:
        references: subject key -> correct answer.
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
    """The distinct wrong texts among a close-ended question's candidates.

    All from ``always`` (the VLM's) are kept; of the others at most MAX_WRONG_PER_QUESTION, drawn by hash.
    """
    drawn = sorted(candidates, key=lambda c: unit_hash(str(seed), "wrong", c.subject.key, c.source))
    taken: dict[str, Candidate] = {}
    for candidate in always:
        if not is_right(task, candidate.text, reference):
            taken.setdefault(candidate.text, candidate)
    own = len(taken)
    for candidate in drawn:
        if len(taken) - own < MAX_WRONG_PER_QUESTION and not is_right(task, candidate.text, reference):
            taken.setdefault(candidate.text, candidate)
    return list(taken.values())


def _class_question(subject: Subject) -> ClassQuestion:
    """The question about a class, parsed back from its text."""
    text = question_of(subject)
    stem, *lines = text.split("\n")
    choices = tuple(
        class_from_name(name) for _, separator, name in (line.partition(". ") for line in lines) if separator
    )
    asked = re.search(r".*\ban? (.+)\?$", stem) if subject.task == "presence" else None
    return ClassQuestion(
        cast(ClassTask, subject.task), stem, class_from_name(asked[1]) if asked else None, choices or None
    )
