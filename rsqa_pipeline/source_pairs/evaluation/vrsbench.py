"""VRSBench's three evaluation files: captions, questions, and boxes of described objects.

One row of each (``VRSBench_EVAL_Cap.json``, ``VRSBench_EVAL_vqa.json``, ``VRSBench_EVAL_referring.json``)::

    {"image_id": "P0003_0002.png", "question": "Describe the image in detail", "ground_truth": "The image shows ...",
     "question_id": 0}
    {"image_id": "P0003_0002.png", "question": "How many small vehicles are visible?", "ground_truth": "1",
     "question_id": 9, "type": "object quantity", "dataset": "DOTA"}
    {"image_id": "P0003_0002.png", "question": "The small vehicle at the left.", "ground_truth": "{<25><30><50><60>}",
     "question_id": 3, "obj_corner": [0.25, 0.3, 0.5, 0.3, 0.5, 0.6, 0.25, 0.6], "obj_cls": "small-vehicle",
     "unique": true}

Boxes are in parts of 100 of the image's sides, as GeoChat writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsqa_pipeline.answer_matching import words_of
from rsqa_pipeline.source_pairs.evaluation.rows import list_of, question_row, text_or_number
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, text_of

LAYOUT = "VRSBench's evaluation JSON"


def read_captions(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one caption per row. Raises DataError if the file cannot be read or is not a list."""
    for row in _rows(path, images, lambda _: "caption"):
        yield replace(row, messages=row.messages[1:]) if isinstance(row, SourceRow) else row


def read_questions(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one question per row; see `task_of`. Raises DataError if the file cannot be read or is not a list."""
    yield from _rows(path, images, task_of)


def read_boxes(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one description with its box per row. Raises DataError if the file cannot be read or is not a list."""
    yield from _rows(path, images, lambda _: "grounding")


def task_of(row: dict[str, Any]) -> str:
    """``presence`` for yes and no, ``count`` for numbers, ``rural_urban`` for these words, by the row's type; else
    ``short_answer``."""
    kind, words = row.get("type"), words_of(text_or_number(row, "ground_truth") or "")
    if kind == "object existence" and words in (["yes"], ["no"]):
        return "presence"
    if kind == "object quantity" and len(words) == 1 and words[0].isdigit():
        return "count"
    if kind == "rural or urban" and words in (["rural"], ["urban"]):
        return "rural_urban"
    return "short_answer"


def _rows(path: Path, images: Path, task: Any) -> Iterator[Entry]:
    """One entry per row, with ``image_id/question_id`` as key."""
    for found in list_of(path, (), LAYOUT):
        if isinstance(found, RowFault):
            yield found
            continue
        index, row = found
        image = text_of(row, "image_id")
        key = f"{image}/{row.get('question_id', f'row {index}')}"
        answer = text_or_number(row, "ground_truth")
        yield question_row(key, images, image, text_of(row, "question") or "", answer, task(row), path.stem)
