"""Rows of a file of pairs: Parquet, a folder of Parquet files, a JSON list or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers import jsonl
from rsqa_pipeline.source_pairs.readers.json_records import records
from rsqa_pipeline.source_pairs.readers.unique_keys import decode
from rsqa_pipeline.source_pairs.source_row import RowFault

MAX_ROWS_IN_MEMORY = 256
"""Rows of a Parquet file in memory at once; each may hold an image."""


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields key and value of each row; a row that cannot be decoded has a `RowFault` as its value.

    Raises:
        DataError: the file cannot be read, or has another format.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no *.parquet file")
    for file in files:
        if file.suffix == ".parquet":
            rows = _parquet_rows(file)
        elif file.suffix == ".json":
            rows = _json_rows(file)
        elif file.suffix == ".jsonl":
            rows = _line_rows(file)
        else:
            raise DataError(f"{file}: needs .parquet, .json (a list) or .jsonl (one object per line)")
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for number, row in enumerate(rows):
            yield f"{name}[{number}]", row


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(MAX_ROWS_IN_MEMORY):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}; is it complete?") from error


def _json_rows(file: Path) -> Iterator[Any]:
    for record in records(file, (), "a list of pairs"):
        yield record if isinstance(record, RowFault) else record.value


def _line_rows(file: Path) -> Iterator[Any]:
    for number, line in jsonl.lines(file):
        try:
            yield decode(line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            reason = "bad_row" if line.endswith(b"\n") else "truncated_file"
            yield RowFault(f"line {number}", reason, f"line {number} cannot be read as JSON: {error}")
