"""CSV with the columns ``image`` and ``text``, and optionally ``split``, ``source`` and ``scene_class``.

One real row (RSICD's first caption, exported)::

    image,text,split
    airport_1.jpg,many planes are parked next to a long building in an airport .,train
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split


@dataclass(frozen=True)
class CsvRow:
    """One row of the file: its values, or the parser's error, and its characters in the file."""

    values: list[str] | csv.Error
    text: str
    """Includes the line end; bytes that are not UTF-8 are lone surrogates."""

    @property
    def raw(self) -> bytes:
        """The row as the file's bytes."""
        return self.text.encode("utf-8", "surrogateescape")


def read(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one entry per row, with key ``row N`` counted from 1 after the header. Default source: the file's name.

    A file that ends within quotes gives ``truncated_file`` for its last row.

    Raises:
        DataError: the file cannot be read or has no columns ``image`` and ``text``.
    """
    rows = read_rows(path)
    header = next(rows).values
    assert isinstance(header, list)  # checked by read_rows
    for number, row in enumerate(rows, 1):
        yield read_row(f"row {number}", row, header, path.stem, images)


def read_rows(path: Path) -> Iterator[CsvRow]:
    """Yields the header, then every row that is not an empty line.

    Raises:
        DataError: the file cannot be read or has no columns ``image`` and ``text``.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = _Lines(file)
            rows = csv.reader(lines)
            row = _next_row(rows, lines)
            header = row.values if row else []
            if row is None or not isinstance(header, list) or not {"image", "text"} <= set(header):
                raise DataError(f"{path} needs a header with the columns image and text, found {header}")
            while row is not None:
                if row.values != []:  # an empty line holds no row
                    yield row
                row = _next_row(rows, lines)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _Lines:
    """Iterates over the file's lines and keeps those read since the last call of `taken`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self._taken.append(line)
        return line

    def taken(self) -> str:
        text = "".join(self._taken)
        self._taken.clear()
        return text


def _next_row(rows: Iterator[list[str]], lines: _Lines) -> CsvRow | None:
    """Returns the next row; None at the end."""
    try:
        values: list[str] | csv.Error | None = next(rows, None)
    except csv.Error as error:  # a field over the parser's limit; the reader continues with the next line
        values = error
    return None if values is None else CsvRow(values, lines.taken())


def read_row(key: str, row: CsvRow, header: list[str], source: str, images: Path) -> Entry:
    """Returns the entry of one row below the header."""
    if row.text.count('"') % 2 and _ends_within_quotes(row.text):
        return RowFault(key, "truncated_file", f"the file ends within quotes: {row.text[:200]}")
    if isinstance(row.values, csv.Error) or len(row.values) != len(header):
        count = f"{len(row.values)} values for {len(header)} columns" if isinstance(row.values, list) else None
        found = count or str(row.values)
        return RowFault(key, "bad_row", found)
    values = dict(zip(header, row.values, strict=True))
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


def _ends_within_quotes(text: str) -> bool:
    """Uses a strict parser, because the default one accepts a field that is never closed."""
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False
