"""The record that every importer yields, and functions shared by the importers."""

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
from rsqa_pipeline.source_pairs.readers.image_names import found_name
from rsqa_pipeline.source_pairs.readers.json_row import IMAGE_KEYS, IMAGE_PLACEHOLDER, ROLES, turn_text
from rsqa_pipeline.source_pairs.source_row import text_of

MAX_ROWS_IN_MEMORY = 256
"""Rows of a Parquet file in memory at once; each may hold an image."""


@dataclass(frozen=True)
class ImportedPair:
    """One pair as in the file. Texts and image are not checked yet."""

    key: str
    """File and row, e.g. ``train.parquet[17]``, for messages."""
    context: tuple[Message, ...]
    chosen: str
    rejected: str
    image: bytes | str | None = None
    """Bytes of an image file, a reference (see `rsqa_pipeline.images.decode`), or None."""
    family: str | None = None
    """The family name in the file; None if it has none."""


@dataclass(frozen=True)
class ImportFault:
    """A row, or one of its pairs, that cannot be read. It is quarantined and counted."""

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
    """Key and content of each row of a Parquet file, a folder of Parquet files, a JSON list or JSON lines.

    Raises:
        DataError: the file cannot be read, or has another format.
    """
    return islice(_all_rows(Path(file.path)), file.limit)


def text_in(row: Mapping[str, Any], name: str) -> str:
    """The string in a column. Raises BadRow if it is not a string."""
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRow("no_text", f"{name} is {_describe(value)}, needs a string")
    return value


def image_of(row: Mapping[str, Any]) -> Any:
    """The row's image, from the keys that the readers of sources know."""
    return next((row[name] for name in IMAGE_KEYS if row.get(name) is not None), None)


def image_in(value: Any, folder: Path) -> bytes | str | None:
    """An image column's value: a name in ``folder``, bytes, ``{"bytes": .., "path": ..}`` as on the hub, or a list of
    one of these. A name may be written otherwise than on the disk (see `image_names`).

    Raises:
        BadRow: the value is anything else, several images, or a name outside the folder; a link may lead out of it as
            well.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise BadRow("several_images", f"{len(value)} images, a pair here has one")
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise BadRow("bad_image", f"image is {_describe(value)}, needs a name or bytes")
    try:
        value = found_name(str(folder / value), folder).removeprefix(f"{folder}/")
        inside = (folder / value).resolve().is_relative_to(folder.resolve())
    except ValueError as error:  # a null character or a lone surrogate
        raise BadRow("bad_image", f"image name {value[:200]!r} is not a file name: {error}") from error
    if Path(value).is_absolute() or ".." in Path(value).parts or not inside:
        raise BadRow("bad_image", f"image name {value[:200]!r} leads out of {folder}")
    return str(folder / value)


def image_folder(file: PairFile) -> Path:
    """The folder that contains the named images."""
    path = Path(file.path)
    return Path(file.images) if file.images else path if path.is_dir() else path.parent


def conversation_pair(prompt: Any, chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], str, str]:
    """Context and the two last answers, from texts or messages. The prompt may be separate, in both lists, or absent.

    Example: ``"How many?", [user "How many?", assistant "3"], [user "How many?", assistant "5"]`` gives
    ``(user "How many?",), "3", "5"``.

    Raises:
        BadRow: a text is missing, a turn is malformed, or the two lists differ before their last turn.
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
    """Messages from a text (one turn of ``role``) or from a list of turns."""
    if isinstance(value, str):
        return (Message(role=role, content=value),)
    if not isinstance(value, list):
        raise BadRow("no_text", f"needs a text or a list of turns, found {_describe(value)}")
    return tuple(_message(turn) for turn in value)


def _message(turn: Any) -> Message:
    """A turn with ``role`` and ``content``, or LLaVA's ``from`` and ``value``, without the placeholder of the image."""
    role, text_key = text_of(turn, "role"), "content"
    if role is None:
        role, text_key = text_of(turn, "from"), "value"
    try:
        text = turn_text(turn, text_key)
    except ValueError as error:
        raise BadRow("bad_turns", str(error)) from error
    if role not in ROLES or text is None:
        raise BadRow("bad_turns", f"a turn is {_describe(turn)}")
    if IMAGE_PLACEHOLDER in text:
        text = text.replace(IMAGE_PLACEHOLDER, "").strip()
    return Message(role=ROLES[role], content=text)


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
            raise DataError(f"{file}: needs .parquet, .json (a list) or .jsonl (one object per line)")
        for number, row in enumerate(rows):
            yield f"{file.name}[{number}]", row if isinstance(row, dict) else {"": row}


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(MAX_ROWS_IN_MEMORY):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}; is it complete?") from error


def _json_rows(file: Path) -> Iterator[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        # str.splitlines also splits at U+2028, which may stand inside a JSON string
        rows = json.loads(text) if file.suffix == ".json" else [json.loads(x) for x in text.split("\n") if x.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON: {error}; is it complete, and in UTF-8?") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: needs a list of rows, found {type(rows).__name__}")
    yield from rows


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:120]
