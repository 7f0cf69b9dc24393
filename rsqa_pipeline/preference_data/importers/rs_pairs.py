"""The published remote-sensing preference pairs: ``image``, ``question`` (not for captions), ``chosen``, ``rejected``.

Parquet, JSON or JSON lines. One real row of each kind::

    {"image": "AID/airport_12.jpg", "chosen": "Several planes are parked beside a white terminal with two runways to
     its north.", "rejected": ["There are planes.", "A harbour with many boats and a long pier."]}
    {"image": {"bytes": b"\\xff\\xd8..", "path": "00017.jpg"}, "question": "Is there a bridge over the river?",
     "chosen": "No, nothing crosses the river in this image.", "rejected": "Yes, a long bridge."}

If a row has several rejected texts, each gives one pair. A row without an image is a text pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    ImportFault,
    image_folder,
    image_in,
    image_of,
    rows_of,
    text_in,
)
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `rows_of`."""
    folder = image_folder(file)
    for key, row in rows_of(file):
        try:
            yield from _pairs(key, row, folder)
        except BadRow as bad:
            yield ImportFault(key, bad.reason, bad.detail)


def _pairs(key: str, row: dict[str, Any], folder: Path) -> list[ImportedPair]:
    question = row.get("question")
    context = () if not question else (Message(role="user", content=text_in(row, "question")),)
    chosen, image = text_in(row, "chosen"), image_in(image_of(row), folder)
    rejected = row.get("rejected")
    texts = rejected if isinstance(rejected, list) else [rejected]
    if not texts:
        raise BadRow("no_text", "rejected is an empty list")
    numbered = [f"{key}.{number}" for number in range(len(texts))] if len(texts) > 1 else [key]
    return [
        ImportedPair(name, context, chosen, text_in({"rejected": text}, "rejected"), image)
        for name, text in zip(numbered, texts, strict=True)
    ]
