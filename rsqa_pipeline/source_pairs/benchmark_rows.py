"""Makes benchmark items from a source's own questions: each row becomes an item, or a fault with its reason."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Any

from rsqa_pipeline.answer_matching import read_letter, same_answer, words_of
from rsqa_pipeline.boxes import read_boxes
from rsqa_pipeline.models.prompt_length import overlong_prompt
from rsqa_pipeline.source_pairs.evaluation.rows import PairRow
from rsqa_pipeline.source_pairs.source_row import SourceRow

_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_CLOSED_TASKS = ("presence", "count", "comparison", "rural_urban", "short_answer")


class NoItem(ValueError):
    """Why a row cannot be a benchmark item."""


def item_values(row: SourceRow) -> dict[str, Any]:
    """``task``, ``question`` and ``answer`` of the item, for choices, pairs and boxes also these.

    A row without a task is an item of ``presence`` if its answer is yes or no, and of ``count`` if it is a number.

    Raises:
        NoItem: several turns, a question too long for a model, an open answer, choices that are not lettered lines or
            repeat, an answer that is none of them, or one without a box.
    """
    if [message["role"] for message in row.messages] != ["user", "assistant"]:
        raise NoItem(f"an item is one question and one answer, found {len(row.messages)} turns")
    if too_long := overlong_prompt(row.messages[:1]):
        raise NoItem(too_long)
    question, answer = (message["content"] for message in row.messages)
    task = _task(row.task, answer)
    values: dict[str, Any] = {"task": task, "question": question, "answer": answer}
    if isinstance(row, PairRow):
        return values | {"choices": _different([answer, row.rejected])}
    if task == "choice":
        return values | _choices(question, answer)
    if task == "grounding":
        boxes = read_boxes(answer)
        if not boxes:
            raise NoItem(f"the answer has no box: {answer[:100]}")
        values |= {"boxes": [list(box) for box in boxes]}
    return values


def _task(task: str, answer: str) -> str:
    if task in (*_CLOSED_TASKS, "choice", "grounding", "reward_pair"):
        return task
    words = words_of(answer)
    if words in (["yes"], ["no"]):
        return "presence"
    if len(words) == 1 and words[0].isdigit():
        return "count"
    needed = f"{', '.join(_CLOSED_TASKS)}, scene_class, choice or grounding"
    raise NoItem(f"task is {task}, and the answer is open: {answer[:100]!r}; benchmarks need task {needed}")


def _choices(question: str, answer: str) -> dict[str, Any]:
    """The question without its choices, the letter of the right one, and the choices. Raises NoItem."""
    options = _OPTION.findall(question)
    choices = [text for _, text in options]
    if len(options) < 2 or [letter for letter, _ in options] != list(ascii_uppercase[: len(options)]):
        raise NoItem(f"needs its choices as lines A. ..., B. ..., found {question[:200]!r}")
    _different(choices)
    letter = read_letter(answer)
    if letter is None or letter not in ascii_uppercase[: len(choices)]:
        same = [index for index, choice in enumerate(choices) if same_answer(answer, choice)]
        if len(same) != 1:
            raise NoItem(f"the answer {answer[:100]!r} is none of the choices {', '.join(choices)[:200]}")
        letter = ascii_uppercase[same[0]]
    return {"question": _OPTION.sub("", question).strip(), "answer": letter, "choices": choices}


def _different(choices: list[str]) -> list[str]:
    """The same choices. Raises NoItem if two are equal, in any case."""
    if len({choice.casefold().strip() for choice in choices}) < len(choices):
        raise NoItem(f"two choices are equal: {'; '.join(choices)[:200]}")
    return choices
