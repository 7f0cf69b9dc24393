"""Parquet as Hugging Face data sets have it: one file, or a folder with one or more files a split.

One real row (RSICD's first caption, as ``data/train-00000-of-00002.parquet`` holds it)::

    {"image": {"bytes": b"\\xff\\xd8\\xff...", "path": "airport_1.jpg"},
     "text": "many planes are parked next to a long building in an airport ."}

The texts may be in ``messages``, ``conversations``, ``text`` or ``caption`` (see `json_row`). An image with bytes is
referred to as ``file.parquet#row:image``, one with a path alone as that file below the images' folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import TEXT_KEYS, row_of
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, file_split

IMAGE = "image"
BATCH_ROWS = 64
_FACTS = ("id", "split", "source", "task", "scene_class")
_SPLIT = re.compile(r"(train|validation|valid|val|test)(?=[-_.]|$)")


def read(path: Path, images: Path) -> Iterator[Entry]:
    """One entry a row, key its ``id`` or ``file row N`` counted from 0; the split is the row's or the file name's.

    A row group that cannot be decoded is one fault ``unreadable`` a row.

    Raises:
        DataError: there is no such file or folder, one is no Parquet file, or lacks the columns.
    """
    found = files(path)
    for file in found:
        check_columns(file)
    for file in found:
        yield from read_file(file, name_of(file, path), path.stem, images)


def files(path: Path) -> list[Path]:
    """The Parquet files of ``path``, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not found or not all(file.is_file() for file in found):
        raise DataError(f"{path} is no Parquet file and no folder with .parquet files in it")
    return found


def check_columns(file: Path) -> None:
    """Looks at the columns alone.

    Raises:
        DataError: no Parquet file, or it lacks the image or the text.
    """
    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is no whole Parquet file: {error}") from error
    missing = [] if IMAGE in schema.names else [IMAGE]
    if not set(TEXT_KEYS) & set(schema.names):
        missing.append(f"one of {', '.join(TEXT_KEYS)}")
    if missing:
        raise DataError(f"{file} lacks the column {' and '.join(missing)}; found {', '.join(schema.names)}")


def name_of(file: Path, path: Path) -> str:
    """What keys call a file of the folder ``path``; nothing where it is the only one."""
    return file.relative_to(path).as_posix() if path.is_dir() else ""


def key_of(values: dict[str, Any], name: str, row: int) -> str:
    """Key of row number ``row`` of the file ``name`` (empty where it is the only one)."""
    return str(values["id"]) if values.get("id") is not None else f"{name} row {row}".strip()


def read_file(file: Path, name: str, source: str, images: Path) -> Iterator[Entry]:
    """Exactly one entry a row, in the file's order."""
    with pq.ParquetFile(file) as parquet:
        schema = parquet.schema_arrow
        by_name = _SPLIT.match(file.stem)
        split = by_name[1] if by_name and "split" not in schema.names else None
        start = 0
        for group in range(parquet.metadata.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            row = start
            try:
                for values in _rows(parquet, group):
                    yield _read_row({"split": split} | values, file, name, row, source, images)
                    row += 1
            except (OSError, pa.ArrowException) as error:
                for lost in range(row, start + count):
                    yield RowFault(key_of({}, name, lost), "unreadable", f"{file}: row group {group}: {error}")
            start += count


def _rows(parquet: pq.ParquetFile, group: int) -> Iterator[dict[str, Any]]:
    """The rows of a group, an image with bytes as an empty path: they stay where they are."""
    schema = parquet.schema_arrow
    columns = [name for name in (*TEXT_KEYS, *_FACTS) if name in schema.names]
    stored = _all_stored(parquet, group)
    if not stored:
        columns.append(IMAGE)
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
        paths = [""] * batch.num_rows if stored else _paths(batch.column(IMAGE))
        texts = batch.select([name for name in columns if name != IMAGE]).to_pylist()
        for values, path in zip(texts, paths, strict=True):
            yield {**values, IMAGE: path}


def _all_stored(parquet: pq.ParquetFile, group: int) -> bool:
    """Whether the file's statistics say that every image of the group has bytes, so that they need not be read."""
    metadata = parquet.metadata.row_group(group)
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        if column.path_in_schema == f"{IMAGE}.bytes" and column.statistics is not None:
            return bool(column.statistics.has_null_count and column.statistics.null_count == 0)
    return False


def _paths(cells: pa.Array) -> list[str | None]:
    """Of each image: empty where it has bytes, its path where it has only that, None where it has neither."""
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return cells.to_pylist()
    if not pa.types.is_struct(cells.type):
        return ["" if cell.is_valid else None for cell in cells]
    names = [child.name for child in cells.type]
    stored = cells.field("bytes").is_valid().to_pylist() if "bytes" in names else [False] * len(cells)
    paths = cells.field("path").to_pylist() if "path" in names else [None] * len(cells)
    return ["" if has_bytes else path or None for has_bytes, path in zip(stored, paths, strict=True)]


def _read_row(values: dict[str, Any], file: Path, name: str, row: int, source: str, images: Path) -> Entry:
    key = key_of(values, name, row)
    image = values[IMAGE]
    if image is None:
        return RowFault(key, "no_image", "the column image is empty", split=file_split(values.get("split")))
    return row_of(values, key, f"{file}#{row}:{IMAGE}" if image == "" else str(images / image), source)
