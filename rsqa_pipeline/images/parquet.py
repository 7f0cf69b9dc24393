"""Reads images in a Parquet file by row and column."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_cell(file: str, row: int, column: str) -> bytes:
    """The image bytes of one cell: a struct with ``bytes``, as Hugging Face stores images, or the bytes themselves,
    or a list of one of these.

    Parquet stores rows in groups that are read as a whole. The last two groups are cached, so that reading in file
    order reads each group once. For random access, e.g. training, export the images as WebDataset first.

    Raises:
        OSError: the file cannot be read, or is damaged at that row.
        LookupError: there is no such row or column, or the cell has no bytes.
    """
    modified = Path(file).stat().st_mtime_ns
    starts = _group_starts(file, modified)
    if not 0 <= row < starts[-1]:
        raise LookupError(f"row {row} of {starts[-1]}")
    group = next(number for number, start in enumerate(starts[1:]) if row < start)
    cells = _column(file, modified, group, column)
    data = cells[row - starts[group]].as_py()
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if isinstance(data, dict):
        data = data.get("bytes")
    if not isinstance(data, bytes):
        raise LookupError(f"row {row} has no bytes")
    return data


@lru_cache(maxsize=256)
def _group_starts(file: str, modified: int) -> list[int]:
    """Number of the first row of each row group, and the file's number of rows."""
    metadata = pq.read_metadata(file)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


@lru_cache(maxsize=2)
def _column(file: str, modified: int, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(file) as parquet:
        is_struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
        table = parquet.read_row_group(group, columns=[f"{column}.bytes" if is_struct else column])
    cells = table.column(column)
    return pa.chunked_array([chunk.field("bytes") for chunk in cells.chunks]) if is_struct else cells
