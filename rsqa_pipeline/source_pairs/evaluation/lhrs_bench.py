"""LHRS-Bench (``LHRS-Bench.json``): multiple choice, several questions per image.

One row, shaped as LHRS-Bot's ``main_bench_gen.py`` reads it (``choices`` is one text)::

    {"qtype": {"1 identity": 108}, "data": [{"filename": "0.png", "qa_pairs": [
      {"question": "What is the main land use?", "choices": "A. Factory; B. Park; C. Farm; D. Forest.",
       "answer": "C.", "type": ["1"]}]}]}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.evaluation.rows import list_of, question_row
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, text_of

_NEXT_CHOICE = re.compile(r"(?:^|[;\n])\s*(?=[A-P]\.)")


def read(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one entry per question, with ``filename/position`` as key; an image without questions is a fault.

    Raises:
        DataError: the file cannot be read or has no list ``data``.
    """
    for found in list_of(path, ("data",), "LHRS-Bench JSON"):
        if isinstance(found, RowFault):
            yield found
            continue
        index, row = found
        image, pairs = text_of(row, "filename"), row.get("qa_pairs")
        if not isinstance(pairs, list) or not pairs:
            yield RowFault(image or f"row {index}", "bad_turns", f"no qa_pairs in {str(row)[:100]}")
            continue
        for position, pair in enumerate(pairs):
            yield _read_pair(f"{image or f'row {index}'}/{position}", image, pair, images, path.stem)


def _read_pair(key: str, image: str | None, pair: Any, images: Path, source: str) -> Entry:
    question, choices = text_of(pair, "question"), text_of(pair, "choices")
    if question is not None and choices is not None:
        question = "\n".join([question.strip(), *choice_lines(choices)])
    return question_row(key, images, image, question, text_of(pair, "answer"), "choice", source)


def choice_lines(choices: str) -> list[str]:
    """``"A. Factory; B. Park."`` as ``["A. Factory", "B. Park"]``."""
    return [part.strip().rstrip(";.").rstrip() for part in _NEXT_CHOICE.split(choices) if part.strip()]
