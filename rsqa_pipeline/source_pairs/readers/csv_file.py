"""CSV with the columns ``image`` and ``text``; ``split``, ``source`` and ``scene_class`` are read where there are any.

One real row (RSICD's first caption, exported)::

    image,text,split
    airport_1.jpg,many planes are parked next to a long building in an airport .,train
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.source_row import (
    Entry,
    RowFault,
    SourceRow,
    caption,
    decode_text,
    file_split,
)


def read(path: Path, images: Path) -> Iterator[Entry]:
    """One entry a row, key ``row N`` counted from 1 after the heading; source is the file's name unless given.

    Raises:
        DataError: the file cannot be read or has no columns ``image`` and ``text``.
    """
    rows = csv.reader(io.StringIO(decode_text(path), newline=""))
    heading = _next_row(rows)
    if not isinstance(heading, list) or not {"image", "text"} <= set(heading):
        raise DataError(f"{path} needs a heading with the columns image and text, found {heading}")
    number = 0
    while (row := _next_row(rows)) is not None:
        if row == []:  # an empty line holds no row
            continue
        number += 1
        yield _read_row(f"row {number}", row, heading, path.stem, images)


def _next_row(rows: Iterator[list[str]]) -> list[str] | csv.Error | None:
    """The next row, the parser's complaint about it, or None at the end."""
    try:
        return next(rows, None)
    except csv.Error as error:  # a field beyond the parser's limit; the reader goes on with the next line
        return error


def _read_row(key: str, row: list[str] | csv.Error, heading: list[str], source: str, images: Path) -> Entry:
    if isinstance(row, csv.Error) or len(row) != len(heading):
        found = str(row) if isinstance(row, csv.Error) else f"{len(row)} values for {len(heading)} columns"
        return RowFault(key, "bad_row", found)
    values = dict(zip(heading, row, strict=True))
    if not values["image"]:
        return RowFault(key, "no_image", "the column image is empty")
    reference = str(images / values["image"])
    split = file_split(values.get("split"))
    if values.get("split") and split is None:
        return RowFault(key, "unknown_split", f"split is {values['split']!r}", reference)
    return SourceRow(
        key=key,
        image=reference,
        messages=caption(values["text"]),
        task="caption",
        source=values.get("source") or source,
        split=split,
        scene_class=values.get("scene_class") or None,
    )
