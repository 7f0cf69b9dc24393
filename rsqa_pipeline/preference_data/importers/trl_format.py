"""TRL's conversational vision preference format (Parquet or JSON): ``prompt``, ``chosen``, ``rejected``, ``images``.

One real row as written by `write`. Content may also be a plain string, and so may prompt, chosen and rejected::

    {"prompt": [{"role": "user", "content": [{"type": "image", "text": None},
                                             {"type": "text", "text": "How many ships are there?"}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "3"}]}],
     "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "5"}]}],
     "images": [{"bytes": b"\\x89PNG..", "path": None}], "family": "close_ended"}

``family`` is this project's own column, restored when read. Other files do not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.images.decode import ImageFault, read_bytes
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    conversation_pair,
    image_of,
    pairs_in,
)
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message

MAX_ROWS_IN_MEMORY = 256


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`; a prompt that only asks for a description of the image gives a caption pair.

    Raises:
        DataError: see `pairs_in`.
    """
    return pairs_in(file, _pairs)


def write(pairs: Iterable[Mapping[str, Any]], path: Path) -> tuple[int, int]:
    """Writes rows of PREFERENCE_PAIR as a dataset that `datasets.load_dataset("parquet", ...)` and TRL read.

    Returns:
        Pairs written, and pairs left out because their image could not be read.
    """
    from datasets import Features, Image, List, Value  # takes seconds to import

    turns = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
    features = Features(
        {"prompt": turns, "chosen": turns, "rejected": turns, "images": List(Image()), "family": Value("string")}
    )
    schema = features.arrow_schema
    written = left_out = 0
    waiting: list[dict[str, Any]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as table:
        for pair in pairs:
            try:
                waiting.append(_row(pair))
                written += 1
            except ImageFault:
                left_out += 1
            if len(waiting) == MAX_ROWS_IN_MEMORY:
                table.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting = []
        table.write_table(pa.Table.from_pylist(waiting, schema=schema))
    return written, left_out


def _row(pair: Mapping[str, Any]) -> dict[str, Any]:
    has_image = pair["image"] is not None
    prompt = list(pair["context"])
    if not prompt and has_image:  # a caption answers the caption prompt
        prompt = [Message(role="user", content=CAPTION_PROMPT)]
    turns = [{"role": turn["role"], "content": [_text(turn["content"])]} for turn in prompt]
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if has_image and first is not None:
        first["content"].insert(0, {"type": "image", "text": None})
    return {
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": [_text(pair["chosen"])]}],
        "rejected": [{"role": "assistant", "content": [_text(pair["rejected"])]}],
        "images": [{"bytes": read_bytes(pair["image"]), "path": None}] if has_image else [],
        "family": pair["family"],
    }


def _text(text: str) -> dict[str, str | None]:
    return {"type": "text", "text": text}


def _pairs(key: str, row: dict[str, Any], folder: Path) -> list[ImportedPair]:
    image, family = image_of(row, folder), row.get("family")
    context, chosen, rejected = conversation_pair(row, image)
    if family is not None and not isinstance(family, str):
        raise BadRow("bad_row", f"family is {family!r}, needs a string")
    if image is not None and [turn["content"].strip() for turn in context] == [CAPTION_PROMPT]:
        context = ()
    return [ImportedPair(key, context, chosen, rejected, image, family)]
