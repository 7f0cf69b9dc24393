"""The small common record that every reader yields, and what readers share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import Message

FileSplit = Literal["train", "validation", "test"]

_SPLIT_NAMES: Mapping[str, FileSplit] = {
    "train": "train",
    "restval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class SourceRow:
    """One text with its image, as the file has it; nothing of it has been opened or checked yet.

    Example: ``SourceRow("airport_1.jpg/0", "RSICD_images/airport_1.jpg", [{"role": "assistant", "content":
    "many planes are parked next to a long building in an airport ."}], "caption", "human", "train", "airport")``
    """

    key: str
    """The reader's own id of the row, unique in a sound file."""
    image: str
    """Image reference (see `rsqa_pipeline.images`)."""
    messages: list[Message]
    task: str
    source: str
    split: FileSplit | None
    """The file's own split; None where the file names none."""
    scene_class: str | None


@dataclass(frozen=True)
class RowFault:
    """A row that the reader could not read: goes to quarantine and is counted."""

    key: str
    reason: str
    """``no_captions | not_text | no_image | unknown_image | unknown_split | bad_turns | bad_row | no_class``."""
    detail: str
    image: str = ""
    split: FileSplit | None = None


Entry = SourceRow | RowFault


def decode_text(path: Path) -> str:
    """The file's text. Bytes that are not UTF-8 become lone surrogates, so that only their row is lost.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def load_json(path: Path) -> Any:
    """Parsed JSON of a file; see `decode_text`.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(decode_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}; is it complete, and in UTF-8?") from error


def list_of(content: Any, key: str, path: Path, layout: str) -> list[Any]:
    """The list ``content[key]``.

    Raises:
        DataError: there is no such list; the message names the layout that is needed.
    """
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        has = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} is not {layout}: needs a list {key!r}, found {has}")
    return found


def text_of(content: Any, key: str) -> str | None:
    """The string ``content[key]``, None where there is none."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, str) else None


def file_split(name: object) -> FileSplit | None:
    """``train | restval | val | valid | validation | test`` in the project's words; None for another name."""
    return _SPLIT_NAMES.get(name) if isinstance(name, str) else None


def caption(text: str) -> list[Message]:
    """A caption is one assistant turn."""
    return [{"role": "assistant", "content": text.strip()}]
