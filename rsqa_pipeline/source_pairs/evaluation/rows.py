"""Rows of evaluation files, and how their readers build them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.readers.json_records import records
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, text_of


@dataclass(frozen=True, kw_only=True)
class PairRow(SourceRow):
    """A question with a right and a wrong answer; the messages hold the question and the right one.

    Example: ``PairRow(key="RLAIF-V-276", image="images/276.jpg", messages=[{"role": "user", "content": "what team?"},
    {"role": "assistant", "content": "the hawks"}], task="reward_pair", source="data", split=None, scene_class=None,
    rejected="the chunikin")``
    """

    rejected: str


def list_of(path: Path, arrays: tuple[str, ...], layout: str) -> Iterator[tuple[int, dict[str, Any]] | RowFault]:
    """Yields position and value of each object of a JSON list; anything else in the list is a fault ``bad_row``.

    Raises:
        DataError: see `json_records.records`.
    """
    for record in records(path, arrays, layout):
        if isinstance(record, RowFault):
            yield record
        elif not isinstance(record.value, dict):
            yield RowFault(f"row {record.index}", "bad_row", f"needs an object, found {str(record.value)[:100]}")
        else:
            yield record.index, record.value


def question_row(
    key: str, images: Path, image: str | None, question: str | None, answer: str | None, task: str, source: str
) -> Entry:
    """A question with its answer, or the fault of what it lacks: ``no_image`` or ``not_text``."""
    if not image:
        return RowFault(key, "no_image", "the row names no image")
    if question is None or answer is None:
        lacking = "question" if question is None else "answer"
        return RowFault(key, "not_text", f"the {lacking} is missing or no text", str(images / image))
    messages = [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": answer.strip()}]
    return SourceRow(key, str(images / image), messages, task, source, None, None)  # type: ignore[arg-type]


def text_or_number(content: dict[str, Any], key: str) -> str | None:
    """The value as text; None if it is neither a text nor a number."""
    value = content.get(key)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else text_of(content, key)
