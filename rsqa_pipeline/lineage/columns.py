"""Columns of large Parquet tables: whole ones as numbers and codes, texts of the wanted rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Mask = npt.NDArray[np.bool_]
REPEATED = ("source", "split", "task", "scene_class", "model_version")
"""Text columns of few distinct values: read as codes, they take a fraction of the time and memory."""
_BATCH_ROWS = 65_536


def batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The table's batches in order, each with the number of rows before it. REPEATED columns are dictionaries.

    One thread reads: what is read is mostly dropped at once, so that it stays in the processor's cache.
    """
    start = 0
    with pq.ParquetFile(path, read_dictionary=_repeated(columns)) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
            yield start, batch
            start += batch.num_rows


def read_rows(path: Path, columns: Sequence[str], wanted: Mask) -> pa.Table:
    """The wanted rows of the table in its order.

    Args:
        columns: not nested ones.
        wanted: (n,) one value per row of the table.
    """
    schema = pa.schema([pq.read_schema(path).field(name) for name in columns])
    parts = [
        batch.filter(pa.array(wanted[start : start + batch.num_rows])).select(list(columns)).cast(schema)
        for start, batch in batches(path, columns)
    ]
    return pa.Table.from_batches(parts, schema)


def read_last_turns(path: Path, wanted: Mask) -> pa.ChunkedArray:
    """The text of the last turn of each wanted row's ``messages``."""
    parts = []
    for start, batch in batches(path, ["messages"]):
        messages = batch["messages"]
        last = pc.subtract(messages.offsets[1:], 1).filter(pa.array(wanted[start : start + batch.num_rows]))
        parts.append(pc.struct_field(messages.values, "content").take(last))
    return pa.chunked_array(parts, pa.string())


def _has_ids(path: Path, ids: pa.ChunkedArray) -> bool:
    """Whether the column ``sample_id`` of the table is these ids in this order."""
    if pq.read_metadata(path).num_rows != len(ids):
        return False
    return all(
        pa.chunked_array([batch["sample_id"]]).equals(ids.slice(start, batch.num_rows))
        for start, batch in batches(path, ["sample_id"])
    )


def read_by_id(path: Path, columns: Sequence[str], ids: pa.ChunkedArray) -> pa.Table:
    """One row per id, missing where the table has not the id. REPEATED columns are dictionaries."""
    table = pq.read_table(path, columns=list(columns), read_dictionary=_repeated(columns), use_threads=False)
    if _has_ids(path, ids):
        return table
    known = pq.read_table(path, columns=["sample_id"], use_threads=False)["sample_id"]
    return table.unify_dictionaries().take(pc.index_in(ids, value_set=known))


def _repeated(columns: Sequence[str]) -> list[str]:
    return [name for name in REPEATED if name in columns]
