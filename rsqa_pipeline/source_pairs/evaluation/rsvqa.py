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
    answers: dict[Any, str | None] = {}
    known: set[Any] = set()
    for found in _active(path, "answers"):
        if isinstance(found, RowFault):
            yield found
        else:
            answers[found.get("id")] = text_or_number(found, "answer")
    for found in _active(path, "images"):
        if isinstance(found, RowFault):
            yield found
        else:
            known.add(found.get("id"))
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
    row: dict[str, Any], answers: dict[Any, str | None], known: set[Any], images: Path, source: str
) -> Entry:
    key, image_id, ids = str(row.get("id")), row.get("img_id"), row.get("answers_ids")
    if not isinstance(image_id, int | str) or image_id not in known:
        return RowFault(key, "unknown_image", f"img_id {image_id!r} is not among the active images")
    task = TASKS.get(str(row.get("type")).lower())
    if task is None:
        return RowFault(key, "unknown_task", f"type is {row.get('type')!r}, known: {', '.join(TASKS)}")
    if not isinstance(ids, list) or len(ids) != 1 or ids[0] not in answers:
        return RowFault(key, "no_item", f"needs one active answer, found answers_ids {ids!r}")
    return question_row(key, images, f"{image_id}.tif", text_of(row, "question"), answers[ids[0]], task, source)
