"""Validates every row and decodes every image once. Rows that cannot be used are quarantined with a reason.

Every row is counted: kept + quarantined = input.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from rsqa_pipeline.boxes import BoxError
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import FAULT, NOTHING, Forgotten
from rsqa_pipeline.images.decode import ImageFault, decode_image, hash_image, read_bytes
from rsqa_pipeline.images.geotiff import Georeference, georeference
from rsqa_pipeline.images.limits import MAX_BYTES
from rsqa_pipeline.images.references import split_raster
from rsqa_pipeline.profile import Boxes
from rsqa_pipeline.quarantine import Quarantine, printable
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.box_texts import with_pixel_boxes
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, RowFault, SourceRow

# The later split wins: a test image stays out of training even if the file lists it in both.
_SPLIT_PRIORITY: Sequence[FileSplit | None] = (None, "train", "validation", "test")


@dataclass(frozen=True)
class CleanRow:
    """A row with a valid text and a decoded image."""

    row: SourceRow
    image_id: str
    georeference: Georeference | None = None
    """Location of the image, from its GeoTIFF."""


class ImageIndex:
    """Reads, decodes and hashes each referenced image once; the pixels are not kept."""

    def __init__(self, max_pixels: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes
        self._known: dict[str, str | ImageFault] = {}
        self._georeferences: dict[str, Georeference] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def image_id(self, reference: str) -> str:
        """Returns the sha256 of the image's bytes. Raises ImageFault, once per row that refers to the image."""
        if reference not in self._known:
            self._known[reference] = self._read_image(reference)
        known = self._known[reference]
        if isinstance(known, ImageFault):
            raise known
        return known

    def georeference(self, reference: str) -> Georeference | None:
        """Location of an image that `image_id` has read; None if the image has none."""
        return self._georeferences.get(reference)

    def size(self, reference: str) -> tuple[int, int]:
        """Width and height in pixels of an image that `image_id` has read, upright."""
        return self._sizes[reference]

    def _read_image(self, reference: str) -> str | ImageFault:
        try:
            data = read_bytes(reference, self._max_bytes)
            self._sizes[reference] = decode_image(data, reference, self._max_pixels, split_raster(reference)[1]).size
        except ImageFault as fault:
            return fault
        location = georeference(data)
        if location is not None:
            self._georeferences[reference] = location
        return hash_image(data)


def check_rows(
    entries: Iterable[Entry],
    images: ImageIndex,
    quarantine: Quarantine,
    boxes: Boxes | None = None,
    forgotten: Forgotten = NOTHING,
) -> list[CleanRow]:
    """Returns the usable entries in order; all others are added to ``quarantine``.

    Args:
        boxes: how the source's texts write boxes (see `box_texts`).
        forgotten: what must not be used again.

    Raises:
        DataError: no row is usable; the message lists the reasons.
    """
    clean: list[CleanRow] = []
    keys: Counter[str] = Counter()
    for entry in tqdm(entries, desc=quarantine.asset, unit="row", disable=None):
        if isinstance(entry, RowFault):
            quarantine.add(entry.key, entry.reason, entry.detail)
            continue
        entry = _with_unique_key(entry, keys)
        fault = text_fault(entry.messages) or _not_utf8(entry.image, "the image's name")
        if fault is not None:
            quarantine.add(entry.key, *fault)
            continue
        try:
            image_id = images.image_id(entry.image)
            entry = with_pixel_boxes(entry, images.size(entry.image), boxes)
            if forgotten.holds(image_id, entry.messages):
                quarantine.add(entry.key, *FAULT)
            else:
                clean.append(CleanRow(entry, image_id, images.georeference(entry.image)))
        except ImageFault as image_fault:
            quarantine.add(entry.key, image_fault.reason, image_fault.detail)
        except BoxError as box_fault:
            quarantine.add(entry.key, "bad_box", str(box_fault))
    clean = _one_split_per_image(clean, quarantine)
    if not clean:
        reasons = Counter(row["reason"] for row in quarantine.rows)
        found = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "no rows at all"
        raise DataError(f"{quarantine.asset}: no row can be used ({found}); check the source's path and images")
    return clean


def _with_unique_key(row: SourceRow, keys: Counter[str]) -> SourceRow:
    """A repeated id gets its position, ``7 (2)``: rows that share an id may differ. True repeats are found by image and
    text, in `drop_repeats`."""
    key = row.key
    while key in keys:
        keys[row.key] += 1
        key = f"{row.key} ({keys[row.key]})"
    keys[key] = 1
    return row if key == row.key else replace(row, key=key)


def text_fault(messages: Sequence[Message]) -> tuple[str, str] | None:
    """Returns (reason, detail) for unusable texts, reason ``not_utf8`` or ``empty_text``; None for valid texts."""
    for turn, message in enumerate(messages):
        fault = _not_utf8(message["content"], f"turn {turn}")
        if fault is not None:
            return fault
        if not any(unicodedata.category(character)[0] not in "CZ" for character in message["content"]):
            return "empty_text", f"turn {turn} ({message['role']}) has no visible character"
    return None


def _not_utf8(text: str, what: str) -> tuple[str, str] | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return "not_utf8", f"{what} has bytes that are not UTF-8 at character {error.start}: {printable(text[:80])}"
    return None


def _one_split_per_image(rows: list[CleanRow], quarantine: Quarantine) -> list[CleanRow]:
    final_split: dict[str, FileSplit | None] = {}
    for clean in rows:
        before = final_split.get(clean.image_id)
        final_split[clean.image_id] = max(before, clean.row.split, key=_SPLIT_PRIORITY.index)
    kept = []
    for clean in rows:
        if clean.row.split == final_split[clean.image_id]:
            kept.append(clean)
        else:
            detail = f"split {clean.row.split}, but the same image is in {final_split[clean.image_id]}"
            quarantine.add(clean.row.key, "split_conflict", detail)
    return kept


def drop_repeats(samples: Iterable[tuple[str, Mapping[str, Any]]], quarantine: Quarantine) -> list[Mapping[str, Any]]:
    """Keeps the first sample of each ``sample_id``, in order; exact repeats are quarantined as ``duplicate_id``.

    Args:
        samples: pairs (source key, sample).
    """
    first: dict[str, str] = {}
    kept = []
    for key, sample in samples:
        identity = sample["sample_id"]
        if identity in first:
            quarantine.add(identity, "duplicate_id", f"{key} has image and text of {first[identity]}")
        else:
            first[identity] = key
            kept.append(sample)
    return kept
