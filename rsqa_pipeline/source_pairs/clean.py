"""Validates every row and decodes every image once; what cannot be used is quarantined with its reason.

Rows are counted one by one: kept + quarantined = input, whatever they hold.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import ImageFault, decode_image, hash_image, read_bytes
from rsqa_pipeline.images.geotiff import Georeference, georeference
from rsqa_pipeline.images.references import split_raster
from rsqa_pipeline.records import Message, Metrics
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, RowFault, SourceRow

# A test image stays out of training even where the file names it in both.
_STRONGER_SPLIT: Sequence[FileSplit | None] = (None, "train", "validation", "test")


@dataclass
class Quarantine:
    """Rows that cannot be used, as `records.QUARANTINE` wants them."""

    stage: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, sample_id: str, reason: str, detail: str) -> None:
        self.rows.append(
            {
                "stage": self.stage,
                "sample_id": _printable(sample_id),
                "reason": reason,
                "detail": _printable(detail),
            }
        )

    def metrics(self, kept: int) -> Metrics:
        """``input_rows``, ``kept_rows``, ``quarantined_rows``, and of these ``duplicate_rows`` (exact and near ones),
        ``benchmark_rows`` (what a benchmark has) and each reason's."""
        reasons = Counter(row["reason"] for row in self.rows)
        return {
            "input_rows": float(kept + len(self.rows)),
            "kept_rows": float(kept),
            "quarantined_rows": float(len(self.rows)),
            "duplicate_rows": float(reasons["duplicate_id"] + reasons["near_duplicate"]),
            "benchmark_rows": float(reasons["in_benchmark"]),
            **{f"quarantined/{reason}": float(count) for reason, count in sorted(reasons.items())},
        }


@dataclass(frozen=True)
class CleanRow:
    """A row whose text is sound and whose image was decoded."""

    row: SourceRow
    image_id: str
    georeference: Georeference | None = None
    """Where the image lies, told by a GeoTIFF."""


class ImageIndex:
    """Reads, decodes and hashes each referenced image once; the pixels are not kept."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._known: dict[str, str | ImageFault] = {}
        self._places: dict[str, Georeference] = {}

    def image_id(self, reference: str) -> str:
        """sha256 of the image's bytes. Raises ImageFault, again for each row that refers to it."""
        if reference not in self._known:
            self._known[reference] = self._look(reference)
        known = self._known[reference]
        if isinstance(known, ImageFault):
            raise known
        return known

    def georeference(self, reference: str) -> Georeference | None:
        """Where an image lies whose `image_id` was asked for; None where it does not say so."""
        return self._places.get(reference)

    def _look(self, reference: str) -> str | ImageFault:
        try:
            data = read_bytes(reference)
            decode_image(data, reference, self._max_pixels, split_raster(reference)[1])
        except ImageFault as fault:
            return fault
        place = georeference(data)
        if place is not None:
            self._places[reference] = place
        return hash_image(data)


def check_rows(entries: Iterable[Entry], images: ImageIndex, quarantine: Quarantine) -> list[CleanRow]:
    """The entries that can be used, in order; every other one is added to ``quarantine``.

    Raises:
        DataError: not one row is left; the message gives the reasons found.
    """
    clean: list[CleanRow] = []
    keys: set[str] = set()
    for entry in tqdm(entries, desc=quarantine.stage, unit="row", disable=None):
        if isinstance(entry, RowFault):
            quarantine.add(entry.key, entry.reason, entry.detail)
            continue
        fault = _fault_of(entry, keys)
        keys.add(entry.key)
        if fault is not None:
            quarantine.add(entry.key, *fault)
            continue
        try:
            image_id = images.image_id(entry.image)
            clean.append(CleanRow(entry, image_id, images.georeference(entry.image)))
        except ImageFault as image_fault:
            quarantine.add(entry.key, image_fault.reason, image_fault.detail)
    clean = _one_split_an_image(clean, quarantine)
    if not clean:
        reasons = Counter(row["reason"] for row in quarantine.rows)
        found = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "no rows at all"
        raise DataError(f"{quarantine.stage}: no row can be used ({found}); check the source's path and images")
    return clean


def _fault_of(row: SourceRow, keys: set[str]) -> tuple[str, str] | None:
    if row.key in keys:
        return "duplicate_id", f"the source has the id {row.key!r} before"
    return text_fault(row.messages) or _not_utf8(row.image, "the image's name")


def text_fault(messages: Sequence[Message]) -> tuple[str, str] | None:
    """(reason, detail) of texts that cannot be used: ``not_utf8`` or ``empty_text``; None for sound ones."""
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
        return "not_utf8", f"{what} has bytes that are not UTF-8 at character {error.start}: {_printable(text[:80])}"
    return None


def _one_split_an_image(rows: list[CleanRow], quarantine: Quarantine) -> list[CleanRow]:
    strongest: dict[str, FileSplit | None] = {}
    for clean in rows:
        before = strongest.get(clean.image_id)
        strongest[clean.image_id] = max(before, clean.row.split, key=_STRONGER_SPLIT.index)
    kept = []
    for clean in rows:
        if clean.row.split == strongest[clean.image_id]:
            kept.append(clean)
        else:
            detail = f"split {clean.row.split}, but the same image is in {strongest[clean.image_id]}"
            quarantine.add(clean.row.key, "split_conflict", detail)
    return kept


def drop_repeats(samples: Iterable[tuple[str, Mapping[str, Any]]], quarantine: Quarantine) -> list[Mapping[str, Any]]:
    """The first sample of each ``sample_id``, in order; exact repeats are quarantined as ``duplicate_id``.

    Args:
        samples: (the source's key, sample).
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


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
