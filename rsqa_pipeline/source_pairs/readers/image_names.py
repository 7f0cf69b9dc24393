"""Finds image files whose name is written otherwise in the list than on the disk."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from rsqa_pipeline.source_pairs.source_row import Entry


def with_found_names(entries: Iterable[Entry], folder: Path) -> Iterator[Entry]:
    """Yields the entries; a reference to a missing file below ``folder`` becomes that of the file that is meant.

    A name that exists is used as it is. Otherwise the file is looked for with ``/`` for ``\\``, with percent-encoding
    decoded, and in both Unicode normalizations (macOS writes NFD). It is used only if exactly one exists.
    """
    last: str | None = None
    found = ""
    for entry in entries:
        if entry.image and entry.image != last:  # rows about one image are mostly adjacent
            last, found = entry.image, found_name(entry.image, folder)
        yield replace(entry, image=found) if entry.image and found != entry.image else entry


def found_name(reference: str, folder: Path) -> str:
    """The reference of the only file below ``folder`` that may be meant; the same if it exists, or if none does."""
    prefix = os.path.join(folder, "")  # noqa: PTH118 - references are strings
    if not reference.startswith(prefix) or _exists(reference):
        return reference
    name = reference.removeprefix(prefix)
    existing = [prefix + other for other in _spellings(name) if _exists(prefix + other)]
    return existing[0] if len(existing) == 1 else reference


def _spellings(name: str) -> set[str]:
    """Other ways to write a name."""
    slashes = {name, name.replace("\\", "/")}
    decoded = slashes | {unquote(other, errors="surrogateescape") for other in slashes}
    return {form for other in decoded for form in (other, *(unicodedata.normalize(n, other) for n in ("NFC", "NFD")))}


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a null character or a lone surrogate
        return False
