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
    image_names,
    image_of,
    pairs_in,
    text_about,
    text_in,
)
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.source_row import is_missing


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `pairs_in`."""
    return pairs_in(file, _pairs)


def _pairs(key: str, row: dict[str, Any], folder: Path) -> list[ImportedPair]:
    image = image_of(row, folder)
    own = None if image is None else image_names(row, image)
    context: tuple[Message, ...] = ()
    if not is_missing(row.get("question")):
        context = (Message(role="user", content=text_about(text_in(row, "question"), own)),)
    chosen = text_about(text_in(row, "chosen"), own)
    rejected = row.get("rejected")
    texts = rejected if isinstance(rejected, list) else [rejected]
    if not texts:
        raise BadRow("no_text", "rejected is an empty list")
    numbered = [f"{key}.{number}" for number in range(len(texts))] if len(texts) > 1 else [key]
    return [
        ImportedPair(name, context, chosen, text_about(text_in({"rejected": text}, "rejected"), own), image)
        for name, text in zip(numbered, texts, strict=True)
    ]
