"""RSVQA, low and high resolution: three JSON files per split, of questions, answers and images.

The path is the questions file, e.g. ``LR_split_test_questions.json`` or ``USGS_split_test_questions.json``; the other
two lie beside it under the same name. One row of each::

    {"questions": [{"id": 10, "img_id": 1, "type": "presence", "question": "Is there a road?", "answers_ids": [10],
                    "active": true}]}
    {"answers": [{"id": 10, "question_id": 10, "answer": "yes", "active": true}]}
    {"images": [{"id": 1, "questions_ids": [10], "active": true}]}

Each file lists the ids of all splits; those of other splits have ``"active": false`` and no content, and are skipped.
The image is ``<img_id>.tif``. Counts and areas are the exact texts of the file (``"0m2"``), not the published classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.evaluation.rows import list_of, question_row, text_or_number
from rsqa_pipeline.source_pairs.readers.coco import id_in
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, text_of

TASKS = {
    "presence": "presence",
    "comp": "comparison",
    "count": "count",
    "rural_urban": "rural_urban",
    "area": "short_answer",
}
"""This project's task of each question type."""


def read(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one entry per active question, with its id as key.

    Raises:
        DataError: a file is missing or is not of this shape, or the path is not that of the questions.
    """
    if "questions" not in path.name:
        raise DataError(f"{path} is not RSVQA's file of questions; give the path of ..._questions.json")
    answers: dict[int | str, dict[str, Any] | None] = {}  # None: several answers have the id
    known: set[int | str] = set()
    for found in _active(path, "answers"):
        if isinstance(found, RowFault):
            yield found
            continue
        answer_id = id_in(found, "id")
        if answer_id is None:
            yield RowFault(f"answer {found.get('id')}", "bad_row", "its id is neither an integer nor a text")
        elif answer_id in answers:
            yield RowFault(f"answer {answer_id}", "duplicate_id", "its id is that of an earlier answer")
            answers[answer_id] = None
        else:
            answers[answer_id] = found
    for found in _active(path, "images"):
        if isinstance(found, RowFault):
            yield found
        elif (image_id := id_in(found, "id")) is not None:
            known.add(image_id)
        else:
            yield RowFault(f"image {found.get('id')}", "bad_row", "its id is neither an integer nor a text")
    for found in _active(path, "questions"):
        yield found if isinstance(found, RowFault) else _read_question(found, answers, known, images, path.stem)


def _active(questions: Path, array: str) -> Iterator[dict[str, Any] | RowFault]:
    path = questions.with_name(questions.name.replace("questions", array))
    for found in list_of(path, (array,), f"RSVQA's {array} JSON"):
        if isinstance(found, RowFault):
            yield found
        elif found[1].get("active") is not False:
            yield found[1]


def _read_question(
    row: dict[str, Any],
    answers: dict[int | str, dict[str, Any] | None],
    known: set[int | str],
    images: Path,
    source: str,
) -> Entry:
    key, image_id, ids = str(row.get("id")), id_in(row, "img_id"), row.get("answers_ids")
    if image_id is None or image_id not in known:
        return RowFault(key, "unknown_image", f"img_id {row.get('img_id')!r} is not among the active images")
    task = TASKS.get(str(row.get("type")).lower())
    if task is None:
        return RowFault(key, "unknown_task", f"type is {row.get('type')!r}, known: {', '.join(TASKS)}")
    answer_id = id_in({"id": ids[0]}, "id") if isinstance(ids, list) and len(ids) == 1 else None
    if answer_id is None or answer_id not in answers:
        return RowFault(key, "no_item", f"needs one active answer, found answers_ids {ids!r}")
    answer = answers[answer_id]
    if answer is None:
        return RowFault(key, "no_item", f"several answers have the id {answer_id!r}")
    if answer.get("question_id") not in (None, row.get("id")):
        return RowFault(key, "no_item", f"answer {answer_id} is that of question {answer['question_id']!r}")
    text = text_or_number(answer, "answer")
    return question_row(key, images, f"{image_id}.tif", text_of(row, "question"), text, task, source)
