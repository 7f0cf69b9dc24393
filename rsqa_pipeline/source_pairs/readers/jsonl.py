"""JSON lines: one JSON object per line, a caption or a conversation about one image (see `json_row`).

One real row (RSICD's first caption)::

    {"image": "airport_1.jpg", "text": "many planes are parked next to a long building in an airport ."}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import image_name, rows_of
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKeyError, decode
from rsqa_pipeline.source_pairs.readers.wide_text import conversion, wide_encoding
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, key_or


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per line and caption, with its ``id`` or ``line N`` (from 1) as key. Default source: the file's
    name.

    Raises:
        DataError: the file cannot be read.
    """
    for number, line in lines(path):
        yield from read_line(line, number, path.stem, images, options)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the number (from 1) and the bytes of each line that is not empty, including its line end.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if encoding := wide_encoding(file.peek(4)[:4]):
                raise DataError(f"{path} cannot be read: {conversion(path, encoding)}")
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_line(
    line: bytes, number: int, source: str, images: Path, options: ReaderOptions = DEFAULT_OPTIONS
) -> list[Entry]:
    """Returns the entries of one line, at least one; invalid JSON without a line end is ``truncated_file``."""
    key = f"line {number}"
    encoding = "utf-8-sig" if number == 1 else "utf-8"
    try:
        row = decode(line.decode(encoding, "surrogateescape"))
    except RepeatedKeyError as error:
        return [RowFault(key, "bad_row", str(error))]
    except (ValueError, RecursionError) as error:
        reason = "bad_row" if line.endswith(b"\n") else "truncated_file"
        return [RowFault(key, reason, f"not valid JSON: {error}")]
    if not isinstance(row, dict):
        return [RowFault(key, "bad_row", f"needs an object, found {type(row).__name__}")]
    row = options.renamed(row)
    key = key_or(row.get("id"), key)
    try:
        name = image_name(row)
    except ValueError as error:
        return [RowFault(key, "no_image", str(error))]
    return rows_of(row, key, str(images / name), source, options, name)
