"""The list of what must not be used again: ids of images, samples, pairs and benchmark items, and why.

`rsqa forget` adds to the list, and everything that reads sources or makes pairs refuses what stands on it. The list is
a file at the project's root, to be tracked by git. It holds hashes, never an image or a text. One line::

    {"kind": "image", "id": "41..", "reason": "request 2026-17", "date": "2026-03-02", "who": "a.person"}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import Message, sample_id

FORGOTTEN = Path("forgotten.jsonl")
FAULT = ("forgotten", f"the image, or this text with the image, is on the list {FORGOTTEN}")
"""Reason and detail of a quarantined record that is on the list."""

Kind = Literal["image", "sample", "pair", "item"]


@dataclass(frozen=True)
class Tombstone:
    """One line of the list."""

    kind: Kind
    """``image``: all that shows the image. The other kinds name one record; see ``id``."""
    id: str
    """``image_id``, ``sample_id``, ``pair_id`` or ``item_id`` (see `records`). A sample's id is a hash of image and
    text. What was corrupted on purpose has two: as the source has it, and as it was trained on."""
    reason: str
    date: str
    """ISO 8601, UTC."""
    who: str


@dataclass(frozen=True)
class Forgotten:
    """The ids on the list, for readers. Without ids, nothing is refused."""

    ids: frozenset[str] = frozenset()

    def __contains__(self, identity: str | None) -> bool:
        return identity in self.ids

    def holds(self, image_id: str | None, messages: Sequence[Message]) -> bool:
        """Whether the image, or this text with this image, is on the list. ``image_id`` is None without an image."""
        return bool(self.ids) and (image_id in self.ids or sample_id(image_id or "", messages) in self.ids)


NOTHING = Forgotten()


def forgotten_sources() -> tuple[str, ...]:
    """The list as an outside file of the assets that honour it; none while it is absent or empty."""
    return (str(FORGOTTEN),) if FORGOTTEN.is_file() and FORGOTTEN.stat().st_size else ()


def read_forgotten() -> Forgotten:
    """The ids on the list. Raises DataError as `read_tombstones`."""
    return Forgotten(frozenset(tombstone.id for tombstone in read_tombstones()))


def read_tombstones() -> list[Tombstone]:
    """The lines of the list; [] if there is no such file.

    Raises:
        DataError: a line is not a tombstone. Nothing is read then: what it stood for would come back.
    """
    if not FORGOTTEN.is_file():
        return []
    found = []
    for number, line in enumerate(FORGOTTEN.read_bytes().splitlines(), start=1):
        try:
            tombstone = Tombstone(**json.loads(line))
            sound = tombstone.kind in get_args(Kind) and all(isinstance(v, str) and v for v in vars(tombstone).values())
        except (ValueError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise DataError(
                f"{FORGOTTEN}, line {number} is not what `rsqa forget` writes; restore the file with "
                f"`git checkout {FORGOTTEN}`. Until then nothing is read, so that nothing forgotten comes back"
            )
        found.append(tombstone)
    return found


def add_tombstones(tombstones: Iterable[Tombstone]) -> list[Tombstone]:
    """Adds those whose id is not on the list yet, in one piece; returns them.

    Raises:
        DataError: as `read_tombstones`.
    """
    known = read_tombstones()
    ids = {tombstone.id for tombstone in known}
    new = list({tombstone.id: tombstone for tombstone in tombstones if tombstone.id not in ids}.values())
    if new:
        scratch = FORGOTTEN.with_suffix(".scratch")
        with scratch.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(tombstone), sort_keys=True) + "\n" for tombstone in [*known, *new])
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(FORGOTTEN)
    return new
