"""The small common record that every reader yields, and what readers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    """Image reference (see `rsqa_pipeline.images.decode`)."""
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
    """``no_captions | not_text | no_image | unknown_image | unknown_split | bad_turns | bad_row | no_class |
    outside_root | truncated_file | bad_member | unreadable``."""
    detail: str
    image: str = ""
    split: FileSplit | None = None


Entry = SourceRow | RowFault


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
