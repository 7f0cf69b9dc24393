"""Parquet in the layout of Hugging Face data sets: one file, or a folder with one or more files per split.

One real row (RSICD's first caption, from ``data/train-00000-of-00002.parquet``)::

    {"image": {"bytes": b"\\xff\\xd8\\xff...", "path": "airport_1.jpg"},
     "text": "many planes are parked next to a long building in an airport ."}

The texts may be in ``messages``, ``conversations``, ``text``, ``caption`` or ``captions`` (see `json_row`). The image
may be in ``images``, a list of one. The reference of an image with bytes is ``file.parquet#row:image``; that of an
image with only a path is the file in the image folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import TEXT_KEYS, rows_of
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, file_split, key_or, split_of_path

IMAGE_COLUMNS = ("image", "images")
BATCH_ROWS = 64
_FACTS = ("id", "split", "source", "task", "scene_class")


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per row and caption, with its ``id`` or ``file row N`` (from 0) as key. The split comes from the
    row or from the file name.

    A row group that cannot be decoded gives one fault ``unreadable`` per row.

    Raises:
        DataError: no such file or folder, or a file that is not Parquet or lacks a column.
    """
    found = files(path)
    for file in found:
        check_columns(file, options)
    for file in found:
        for entries in read_file(file, name_of(file, path), path.stem, images, options):
            yield from entries


def files(path: Path) -> list[Path]:
    """Returns the Parquet files of ``path``, sorted by name.

    Raises:
        DataError: there is none.
    """
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise DataError(f"{path} is not a Parquet file, and not a folder with .parquet files in it")
    return found


def check_columns(file: Path, options: ReaderOptions) -> None:
    """Checks the columns without reading any rows.

    Raises:
        DataError: the file is not Parquet, or it lacks the image or the text.
    """
    try:
        metadata = pq.read_metadata(file)
        schema = pq.read_schema(file)
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(f"{file} is not a complete Parquet file: {error}") from error
    # pyarrow aborts the process on row groups with other columns than the schema's
    if any(group.num_columns != metadata.num_columns for group in groups):
        raise DataError(f"{file} is damaged: a row group has other columns than the schema")
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise DataError(f"{file} is damaged: its row groups have {rows[:9]} rows, the file says {metadata.num_rows}")
    both = [name for name in IMAGE_COLUMNS if name in schema.names]
    if len(both) > 1 and "image" not in options.columns:
        raise DataError(f"{file} has the columns {' and '.join(both)}; name one of them in columns: {{image: NAME}}")
    missing = [] if image_column(schema, options) is not None else [options.column("image")]
    missing += [column for column in options.columns.values() if column not in (*schema.names, *missing)]
    if not {options.column(name) for name in TEXT_KEYS} & set(schema.names):
        missing.append(f"one of {', '.join(map(options.column, TEXT_KEYS))}")
    if missing:
        found = f"found {', '.join(schema.names)}; a column of another name is named in columns: {{text: NAME}}"
        raise DataError(f"{file} lacks the column {' and '.join(missing)}; {found}")


def image_column(schema: pa.Schema, options: ReaderOptions) -> str | None:
    """The column that holds the image: the one that the settings name, or else ``image`` or ``images``."""
    names = (options.columns["image"],) if "image" in options.columns else IMAGE_COLUMNS
    return next((name for name in names if name in schema.names), None)


def name_of(file: Path, path: Path) -> str:
    """Name used in keys for a file of the folder ``path``; empty if it is the only file."""
    return file.relative_to(path).as_posix() if path.is_dir() else ""


def key_of(values: dict[str, Any], name: str, row: int) -> str:
    """Key of row number ``row`` of the file ``name`` (empty if it is the only file)."""
    return key_or(values.get("id"), f"{name} row {row}".strip())


def read_file(
    file: Path, name: str, source: str, images: Path, options: ReaderOptions = DEFAULT_OPTIONS
) -> Iterator[list[Entry]]:
    """Yields the entries of each row, at least one, in file order."""
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        image = image_column(schema, options)
        assert image is not None  # checked by check_columns
        in_file = options.column("split") in schema.names
        split = None if in_file else split_of_path(PurePath(name or file.name))
        start = 0
        for group in range(parquet.metadata.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            row = start
            try:
                for values in _rows(parquet, group, image, options):
                    yield _read_row({"split": split} | values, image, file, name, row, source, images, options)
                    row += 1
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
                for lost in range(row, start + count):
                    yield [RowFault(key_of({}, name, lost), "unreadable", f"{file}: row group {group}: {error}")]
            start += count


def _rows(parquet: pq.ParquetFile, group: int, image: str, options: ReaderOptions) -> Iterator[dict[str, Any]]:
    """Yields the rows of a row group, each with a `_Cell` as its image; bytes of images stay in the file."""
    schema = parquet.schema_arrow
    columns = [column for name in (*TEXT_KEYS, *_FACTS) if (column := options.column(name)) in schema.names]
    # The metadata of a column may say that all images have bytes, but pyarrow aborts the process where it is damaged.
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[*columns, image]):
        cells, texts = _cells(batch.column(image)), batch.select(columns).to_pylist()
        for values, cell in zip(texts, cells, strict=True):
            yield {**options.renamed(values), "image": cell}


@dataclass(frozen=True)
class _Cell:
    """An image: stored in the file, with its name if it has one, or a name alone."""

    is_stored: bool
    name: str | None


def _cells(cells: pa.Array) -> list[_Cell | None]:
    """The image of each row, None if there is none. A list of one is the image in it; None for other lists."""
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type):
        inner = _cells(cells.flatten())
        ends = np.cumsum([len(cell) if cell.is_valid else 0 for cell in cells], dtype=int)
        counts = np.diff(ends, prepend=0)
        return [inner[end - 1] if count == 1 else None for end, count in zip(ends, counts, strict=True)]
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return [_Cell(False, name) if name else None for name in cells.to_pylist()]
    if not pa.types.is_struct(cells.type):
        return [_Cell(True, None) if cell.is_valid else None for cell in cells]
    names = [child.name for child in cells.type]
    stored = cells.field("bytes").is_valid().to_pylist() if "bytes" in names else [False] * len(cells)
    paths = cells.field("path").to_pylist() if "path" in names else [None] * len(cells)
    return [
        _Cell(has_bytes, path or None) if has_bytes or path else None
        for has_bytes, path in zip(stored, paths, strict=True)
    ]


def _read_row(
    values: dict[str, Any],
    image: str,
    file: Path,
    name: str,
    row: int,
    source: str,
    images: Path,
    options: ReaderOptions,
) -> list[Entry]:
    key = key_of(values, name, row)
    cell: _Cell | None = values["image"]
    if cell is None:
        found = f"the column {image} does not hold one image"
        return [RowFault(key, "no_image", found, split=file_split(values.get("split")))]
    reference = f"{file}#{row}:{image}" if cell.is_stored or cell.name is None else str(images / cell.name)
    return rows_of(values, key, reference, source, options, cell.name)
