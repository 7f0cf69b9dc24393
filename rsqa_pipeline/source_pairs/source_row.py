"""The common record that every reader yields, and functions that the readers share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from rsqa_pipeline.records import Message

FileSplit = Literal["train", "validation", "test"]

_SPLIT_NAMES: Mapping[str, FileSplit] = {
    "train": "train",
    "training": "train",
    "restval": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class SourceRow:
    """One text with its image, as in the file. Nothing has been opened or checked yet.

    Example: ``SourceRow("airport_1.jpg/0", "RSICD_images/airport_1.jpg", [{"role": "assistant", "content":
    "many planes are parked next to a long building in an airport ."}], "caption", "human", "train", "airport")``
    """

    key: str
    """The reader's id of the row, unique in a valid file."""
    image: str
    """Image reference (see `rsqa_pipeline.images.decode`)."""
    messages: list[Message]
    task: str
    source: str
    split: FileSplit | None
    """The file's own split; None if the file names none."""
    scene_class: str | None
    caption_prompt: str | None = None
    """The question that was dropped, because the settings or a list of known ones say that its answer is a caption."""


@dataclass(frozen=True)
class RowFault:
    """A row that the reader could not read. It is quarantined and counted."""

    key: str
    reason: str
    """``no_captions | not_text | no_image | unknown_image | unknown_split | unknown_task | bad_turns | bad_row |
    no_class | bad_box | no_item | outside_root | truncated_file | bad_member | unreadable``."""
    detail: str
    image: str = ""
    split: FileSplit | None = None


Entry = SourceRow | RowFault


def text_of(content: Any, key: str) -> str | None:
    """The string ``content[key]``; None if there is none."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, str) else None


def file_split(name: object) -> FileSplit | None:
    """A published split name (see `_SPLIT_NAMES`), in any case, as a split of this project; None for another name."""
    return _SPLIT_NAMES.get(name.strip().lower()) if isinstance(name, str) else None


def split_of_path(path: PurePath) -> FileSplit | None:
    """The split that a file's name or a folder on ``path`` states; None if none does, or if two disagree."""
    found = splits_of_path(path)
    return found.pop() if len(found) == 1 else None


def splits_of_path(path: PurePath) -> set[FileSplit]:
    """The splits that a file's name or a folder on ``path`` states.

    A folder states a split with its whole name, the file with one word of its name: ``default/test/0000.parquet``,
    ``rsicd_test.parquet`` and ``captions_val2014.json`` do; ``latest.json`` and ``contest/0.tar`` do not.
    """
    words = re.findall("[a-z]+", path.stem.lower())
    return {split for split in map(file_split, (*path.parts[:-1], *words)) if split is not None}


def is_missing(value: Any) -> bool:
    """Whether a value of a row says nothing: None, an empty text or NaN. 0 and False are values."""
    return value is None or bool(value != value) or (isinstance(value, str) and not value.strip())


def key_or(value: Any, position: str) -> str:
    """The id ``value`` as a row's key; ``position`` if it is missing."""
    return position if is_missing(value) else str(value)


def texts_fault(values: Mapping[str, Any], *names: str) -> str | None:
    """What is wrong with ``values`` that have to be texts where they are not missing; None if nothing is."""
    wrong = (name for name in names if not is_missing(values.get(name)) and text_of(values, name) is None)
    return next((f"{name} is {str(values[name])[:100]}, needs a text" for name in wrong), None)


def caption(text: str) -> list[Message]:
    """A caption as messages: one assistant turn."""
    return [{"role": "assistant", "content": text.strip()}]
