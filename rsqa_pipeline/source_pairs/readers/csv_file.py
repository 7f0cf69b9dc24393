"""CSV with the columns ``image`` and ``text``, and optionally ``split``, ``source`` and ``scene_class``.

One real row (RSICD's first caption, exported)::

    image,text,split
    airport_1.jpg,many planes are parked next to a long building in an airport .,train

Other names of columns and another delimiter are settings. UTF-16 is read if the file begins with its byte order mark,
as Excel's "Unicode text" does.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import plain_caption
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.wide_text import conversion, wide_encoding
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split

_READ = ("image", "text", "split", "source", "scene_class")


@dataclass(frozen=True)
class CsvRow:
    """One row of the file: its values, or the parser's error, and its characters in the file."""

    values: list[str] | csv.Error
    text: str
    """Includes the line end; bytes that are not UTF-8 are lone surrogates."""
    encoding: str = "utf-8"

    @property
    def raw(self) -> bytes:
        """The row as the file's bytes."""
        return self.text.encode(self.encoding, "surrogateescape")


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per row, with key ``row N`` counted from 1 after the header. Default source: the file's name.

    A file that ends within quotes gives ``truncated_file`` for its last row.

    Raises:
        DataError: the file cannot be read or has no columns ``image`` and ``text``.
    """
    rows = read_rows(path, options)
    header = header_of(next(rows), options)
    for number, row in enumerate(rows, 1):
        yield read_row(f"row {number}", row, header, path.stem, images, options)


def header_of(row: CsvRow, options: ReaderOptions) -> list[str]:
    """The columns' names, as this project calls them."""
    names = {column: name for name, column in options.columns.items()}
    values = row.values if isinstance(row.values, list) else []
    # a column whose name is given to another one by the settings is not read under that name
    return [names.get(value, "" if value in options.columns else value) for value in values]


def byte_order_mark(path: Path) -> tuple[bytes, str]:
    """The mark that the file begins with, and the encoding that it states; without one UTF-8.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(3)
    marks = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
    return next(((mark, encoding) for mark, encoding in marks if start.startswith(mark)), (b"", "utf-8"))


def read_rows(path: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[CsvRow]:
    """Yields the header, then every row that is not an empty line.

    Raises:
        DataError: the file cannot be read or has no columns ``image`` and ``text``.
    """
    try:
        mark, encoding = byte_order_mark(path)
        with path.open("rb") as start:
            wide = wide_encoding(start.read(4))
        if wide is not None and (not mark or wide.startswith("UTF-32")):  # UTF-16 with its mark is read
            raise DataError(f"{path} cannot be read: {conversion(path, wide)}")
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            file.read(1 if mark else 0)
            lines = _Lines(file, encoding)
            rows = csv.reader(lines, delimiter=options.delimiter)
            row = _next_row(rows, lines)
            if row is None or not {"image", "text"} <= set(header_of(row, options)):
                raise DataError(_header_fault(path, row, options))
            names = Counter(header_of(row, options))
            for name in _READ:
                if names[name] > 1:
                    raise DataError(f"{path} has {names[name]} columns {options.column(name)}; rename all but one")
            while row is not None:
                if row.values != []:  # an empty line holds no row
                    yield row
                row = _next_row(rows, lines)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not complete UTF-16, which its first bytes state: {error}") from error


def _header_fault(path: Path, row: CsvRow | None, options: ReaderOptions) -> str:
    """What was found in place of the header, and the setting that reads it."""
    found = row.values if row is not None and isinstance(row.values, list) else []
    needed = f"{path} needs a header with the columns {options.column('image')} and {options.column('text')}"
    line = options.delimiter.join(found)
    for delimiter in ";\t|,":
        names = line.split(delimiter)
        fits = {options.column("image"), options.column("text")} <= set(names)
        if delimiter != options.delimiter and (fits or (len(found) == 1 and len(names) > 1)):
            shown = f"one column {line[:200]!r}" if len(found) == 1 else str(found)[:500]
            return f"{needed}, found {shown}; set delimiter: {json.dumps(delimiter)}"
    return f"{needed}, found {str(found)[:500]}; name them in columns: {{image: NAME, text: NAME}}"


class _Lines:
    """Iterates over the file's lines and keeps those read since the last call of `taken`."""

    def __init__(self, file: TextIO, encoding: str) -> None:
        self._file = file
        self.encoding = encoding
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
    return None if values is None else CsvRow(values, lines.taken(), lines.encoding)


def read_row(
    key: str, row: CsvRow, header: list[str], source: str, images: Path, options: ReaderOptions = DEFAULT_OPTIONS
) -> Entry:
    """Returns the entry of one row below the header."""
    if row.text.count('"') % 2 and _ends_within_quotes(row.text, options.delimiter):
        return RowFault(key, "truncated_file", f"the file ends within quotes: {row.text[:200]}")
    if isinstance(row.values, csv.Error) or len(row.values) != len(header):
        count = f"{len(row.values)} values for {len(header)} columns" if isinstance(row.values, list) else None
        found = count or str(row.values)
        return RowFault(key, "bad_row", found)
    values = dict(zip(header, row.values, strict=True))
    if not values["image"]:
        return RowFault(key, "no_image", f"the column {options.column('image')} is empty")
    reference = str(images / values["image"])
    split = file_split(values.get("split"))
    if values.get("split") and split is None:
        return RowFault(key, "unknown_split", f"split is {values['split']!r}", reference)
    try:
        text = plain_caption(values["text"], [reference, values["image"]])
    except ValueError as error:
        return RowFault(key, "bad_turns", f"{options.column('text')}: {error}", reference, split)
    return SourceRow(
        key=key,
        image=reference,
        messages=caption(text),
        task="caption",
        source=values.get("source") or source,
        split=split,
        scene_class=values.get("scene_class") or None,
    )


def _ends_within_quotes(text: str, delimiter: str) -> bool:
    """Uses a strict parser, because the default one accepts a field that is never closed."""
    try:
        list(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter))
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False
