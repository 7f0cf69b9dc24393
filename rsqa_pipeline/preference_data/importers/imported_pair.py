"""The small record that every importer yields, and what importers share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message

ROWS_AT_ONCE = 256
"""Rows of a Parquet file in memory together; each may hold an image."""


@dataclass(frozen=True)
class ImportedPair:
    """One pair as the file has it; neither texts nor image have been checked yet."""

    key: str
    """File and row, e.g. ``train.parquet[17]``, for messages."""
    context: tuple[Message, ...]
    chosen: str
    rejected: str
    image: bytes | str | None = None
    """Bytes of an image file, a reference (see `rsqa_pipeline.images.decode`), or None."""
    family: str | None = None
    """The file's own word for it; None where it has none."""


@dataclass(frozen=True)
class ImportFault:
    """A row, or one of its pairs, that cannot be read: goes to quarantine and is counted."""

    key: str
    reason: str
    """``bad_row | bad_turns | bad_image | no_text | equal_scores | wrong_order | several_images``."""
    detail: str


Entry = ImportedPair | ImportFault


class BadRow(Exception):
    """Why a row cannot be read; becomes an `ImportFault`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def rows_of(file: PairFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and row of each row: of a Parquet file, a folder of them, a JSON list or JSON lines.

    Raises:
        DataError: the file cannot be read, or is of none of these forms.
    """
    return islice(_all_rows(Path(file.path)), file.limit)


def text_in(row: Mapping[str, Any], name: str) -> str:
    """The string in a column. Raises BadRow."""
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRow("no_text", f"{name} is {_shown(value)}, needs a string")
    return value


def image_in(value: Any, folder: Path) -> bytes | str | None:
    """An image column's value: a name in ``folder``, bytes, or ``{"bytes": .., "path": ..}`` as the hub stores it.

    Raises:
        BadRow: it is something else, or a name outside the folder.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise BadRow("bad_image", f"image is {_shown(value)}, needs a name or bytes")
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise BadRow("bad_image", f"image name {value[:200]!r} leads out of {folder}")
    return str(folder / value)


def image_folder(file: PairFile) -> Path:
    """The folder that image names are in."""
    path = Path(file.path)
    return Path(file.images) if file.images else path if path.is_dir() else path.parent


def conversation_pair(prompt: Any, chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], str, str]:
    """Context and the two last answers, of texts or of messages; the prompt may stand apart, in both lists, or not.

    Example: ``"How many?", [user "How many?", assistant "3"], [user "How many?", assistant "5"]`` gives
    ``(user "How many?",), "3", "5"``.

    Raises:
        BadRow: no text, turns that are none, or two lists that differ before their last turn.
    """
    asked = _messages(prompt, "user") if prompt is not None else ()
    good, bad = _messages(chosen, "assistant"), _messages(rejected, "assistant")
    if not good or not bad or good[-1]["role"] != "assistant" or bad[-1]["role"] != "assistant":
        raise BadRow("bad_turns", "chosen and rejected must each end with a turn of the assistant")
    if good[:-1] != bad[:-1]:
        raise BadRow("bad_turns", "chosen and rejected differ before their last turn")
    before = good[:-1]
    context = before if before[: len(asked)] == asked else asked + before
    return context, good[-1]["content"], bad[-1]["content"]


def _messages(value: Any, role: str) -> tuple[Message, ...]:
    """Messages of a text (one turn of ``role``) or of a list of turns."""
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    if not isinstance(value, list):
        raise BadRow("no_text", f"needs a text or a list of turns, found {_shown(value)}")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping) or turn.get("role") not in ("system", "user", "assistant"):
            raise BadRow("bad_turns", f"a turn is {_shown(turn)}")
        turns.append(Message(role=turn["role"], content=_content(turn.get("content"))))
    return tuple(turns)


def _content(value: Any) -> str:
    """The text of a turn's content: a string, or parts of which the text ones count."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(str(part) for part in parts)
    raise BadRow("bad_turns", f"a turn's content is {_shown(value)}")


def _all_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no *.parquet file")
    for file in files:
        if file.suffix == ".parquet":
            rows = _parquet_rows(file)
        elif file.suffix in (".json", ".jsonl"):
            rows = _json_rows(file)
        else:
            raise DataError(f"{file}: needs .parquet, .json (a list) or .jsonl (an object a line)")
        for number, row in enumerate(rows):
            yield f"{file.name}[{number}]", row if isinstance(row, dict) else {"": row}


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}; is it complete?") from error


def _json_rows(file: Path) -> Iterator[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if file.suffix == ".json" else [json.loads(x) for x in text.splitlines() if x.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}; is it complete, and in UTF-8?") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: needs a list of rows, found {type(rows).__name__}")
    yield from rows


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:120]
