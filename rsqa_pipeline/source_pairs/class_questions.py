"""Closed-ended questions that the scene class alone answers, for real images that have only class labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from rsqa_pipeline.records import Message
from rsqa_pipeline.scenes.asking import LETTERS, choice_text
from rsqa_pipeline.source_pairs.corruption import TRUE_QUALITY, CorruptionKind, swapped_class
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION, class_words, with_article
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow
from rsqa_pipeline.source_pairs.split import unit_hash

ClassTask = Literal["scene_class", "presence", "choice"]


@dataclass(frozen=True)
class ClassQuestion:
    """A question about the class of an image.

    Example: ``ClassQuestion("choice", "which class of scene is this?", None, ("port", "airport", "park",
    "river"))``; ``answer("airport")`` is ``B``.
    """

    task: ClassTask
    text: str
    asked: str | None
    """The class that a yes-no question is about."""
    choices: tuple[str, ...] | None
    """The classes to choose from."""

    @property
    def messages(self) -> list[Message]:
        """The user's turn, in the wording of the benchmark of the same task."""
        text = self.text
        if self.choices:
            text = choice_text(text, tuple(self.choice_words))
        return [{"role": "user", "content": text}]

    @property
    def choice_words(self) -> list[str]:
        return [class_words(choice) for choice in self.choices or ()]

    def answer(self, scene_class: str) -> str | None:
        """The answer for an image of ``scene_class``; None if none of the choices fits."""
        if self.task == "presence":
            return "yes" if self.asked == scene_class else "no"
        if self.choices is None:
            return class_words(scene_class)
        return LETTERS[self.choices.index(scene_class)] if scene_class in self.choices else None


def ask(task: ClassTask, scene_class: str, classes: list[str], key: str) -> ClassQuestion:
    """Makes a question of kind ``task`` about an image of ``scene_class``; ``key`` seeds the random choices.

    Yes-no questions are balanced. Half of the "no" questions, and one choice of every multiple-choice question, name
    the class that a systematic captioner confuses with the true one, so that such habits show.
    """
    if task == "scene_class":
        return ClassQuestion(task, CLASS_QUESTION, None, None)
    confused = swapped_class(scene_class, classes)
    others = [other for other in classes if other not in (scene_class, confused)]
    others.sort(key=lambda other: unit_hash(key, "other", other))
    if task == "presence":
        draw = unit_hash(key, "presence")
        asked = scene_class if draw < 0.5 else confused if draw < 0.75 or not others else others[0]
        return ClassQuestion(task, f"is this a photo of {with_article(class_words(asked))}?", asked, None)
    choices = [scene_class, confused, *others[: len(LETTERS) - 2]]
    choices.sort(key=lambda choice: unit_hash(key, "place", choice))
    return ClassQuestion(task, "which class of scene is this?", None, tuple(choices))


def tasks_for(classes: list[str]) -> list[ClassTask]:
    """The kinds of question that this many classes allow."""
    needed = {"scene_class": 2, "presence": 2, "choice": len(LETTERS)}
    return [task for task in get_args(ClassTask) if len(classes) >= needed[task]]


def class_question_entries(
    entries: Iterable[Entry], count: int, seed: int
) -> tuple[list[Entry], dict[str, ClassQuestion]]:
    """Returns at most ``count`` questions about training images, spread over images and kinds, and the questions by
    key.

    A fault of the source is kept if its image has no row, or if it names no image.
    """
    images: dict[str, SourceRow] = {}
    faults: list[Entry] = []
    for entry in entries:
        if isinstance(entry, SourceRow) and entry.split in ("train", None):
            images.setdefault(entry.image, entry)
        elif isinstance(entry, RowFault) and entry.split in ("train", None):
            faults.append(entry)
    faults = [fault for fault in faults if fault.image not in images]
    classes = sorted({row.scene_class for row in images.values() if row.scene_class})
    rows: list[Entry] = []
    questions: dict[str, ClassQuestion] = {}
    for row in images.values():
        if row.scene_class is None:
            faults.append(RowFault(row.key, "no_class", "its scene class is not known", row.image, row.split))
            continue
        for task in tasks_for(classes):
            key = f"{row.key} {task}"
            question = ask(task, row.scene_class, classes, f"{seed}/{key}")
            answer = question.answer(row.scene_class)
            messages: list[Message] = [*question.messages, {"role": "assistant", "content": answer or ""}]
            rows.append(replace(row, key=key, messages=messages, task=task))
            questions[key] = question
    rows.sort(key=lambda entry: unit_hash(str(seed), "class question", entry.key))
    return faults + rows[:count], questions


def corrupt_answer(
    question: ClassQuestion, kind: CorruptionKind, scene_class: str, classes: list[str]
) -> tuple[str, float] | None:
    """Returns the answer of a source with the habit ``kind``, and its true quality 1..5.

    ``class_swap`` and ``wrong_image`` answer for the class that they always confuse with the true one. ``vague`` always
    answers "some area", "yes" or "A". ``count_change`` has nothing to count. None if the answer is right or the habit
    does not apply.
    """
    if kind == "count_change":
        return None
    if kind == "vague":
        wrong: str | None = {"scene_class": "some area", "presence": "yes", "choice": "A"}[question.task]
    else:
        wrong = question.answer(swapped_class(scene_class, classes))
    if wrong is None or wrong == question.answer(scene_class):
        return None
    return wrong, TRUE_QUALITY[kind if question.task == "scene_class" else "class_swap"]
