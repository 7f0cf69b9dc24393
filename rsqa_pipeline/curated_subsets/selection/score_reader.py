"""Reads a score file batch by batch, and stores ranking keys on disk as integers in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, SPREAD
from rsqa_pipeline.errors import DataError

BATCH_ROWS = 1 << 18
SCORE_COLUMNS = ("score", *SCORED, SPREAD)
HASH_COLUMNS = ("image_hash", "text_hash")
NOT_SCORED = np.uint64(0)
"""Code of a missing key; all other codes are higher."""
_REFUSED = np.uint16(1 << 15)
_MAX_TIES_IN_MEMORY = 200_000


class ScoreTable:
    """A score file, or a folder of shards, in Parquet: a column ``key`` or ``sample_id``, and one per selector.

    ``score`` is the score model's score if there is no column ``score_model``. Rows keep the file's order.
    """

    def __init__(self, path: Path, batch_rows: int = BATCH_ROWS) -> None:
        """Raises DataError if the file does not exist, is not Parquet or has no ids."""
        if not path.exists():
            raise DataError(f"no score file {path}; create it with `rsqa score`")
        try:
            self._data = ds.dataset(path)
            self.rows: int = self._data.count_rows()
            self.columns: list[str] = self._data.schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not a Parquet file: {_one_line(error)}") from error
        self._path = path
        found = [name for name in ("key", "sample_id") if name in self.columns]
        if not found:
            raise DataError(f"{path} needs a column key or sample_id; it has {', '.join(self.columns)}")
        self.id = found[0]
        self.batch_rows = batch_rows

    def column(self, name: str) -> str:
        """The file's name for a column or selector. Raises DataError if it has none."""
        found = "score" if name == "score_model" and name not in self.columns else name
        if found not in self.columns:
            raise DataError(f"the rule needs column {found!r}; the score file has {', '.join(self.columns)}")
        return found

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """(number of its first row, record batch) of the columns, in order."""
        start = 0
        # by default dozens of batches are read ahead, and everything read stays in memory
        ahead = {"batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
        stream = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
        options = {**ahead, "fragment_scan_options": stream}
        batches = iter(self._data.to_batches(columns=columns, batch_size=self.batch_rows, **options))
        while (batch := self._next(batches, start)) is not None:
            yield start, batch
            start += len(batch)
        if start != self.rows:
            raise DataError(f"{self._path} is damaged: it should have {self.rows} rows and has {start}")

    def _next(self, batches: Iterator[Any], start: int) -> Any:
        """The next batch, with ids as text and scores as float64 whatever their types in the file; None at the end."""
        try:
            batch = next(batches, None)
            if batch is None:
                return None
            batch.validate(full=True)  # e.g. text that is not UTF-8
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path} is damaged behind row {start}: {_one_line(error)}") from error
        columns = [self._converted(name, batch.column(name), start) for name in batch.schema.names]
        return pa.record_batch(columns, names=batch.schema.names)

    def _converted(self, name: str, values: Any, start: int) -> Any:
        """
        Raises:
            DataError: a missing id, or a type that is not what the column stands for.
        """
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        if name == self.id and values.null_count:
            row = start + values.is_null().to_pylist().index(True)
            raise DataError(f"row {row} (from 0) has no {self.id}; each row of a score file needs one")
        is_score = name in SCORE_COLUMNS
        if not is_score and name not in (self.id, *HASH_COLUMNS) and not pa.types.is_nested(kind):
            return values
        if is_score and not (_is_number(kind) or pa.types.is_null(kind)):
            raise DataError(f"column {name} of {self._path} has type {kind}; a score is a number")
        try:
            return values.cast(pa.float64() if is_score else pa.string())
        except pa.ArrowException as error:
            raise DataError(
                f"column {name} of {self._path} has type {kind}, which cannot be read as text or a number: "
                f"{_one_line(error)}"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows."""

    start: int
    codes: npt.NDArray[np.uint64]
    """(n,) keys as sortable codes."""
    groups: npt.NDArray[np.uint16]
    """(n,) number of each row's group."""
    passing: npt.NDArray[np.bool_]
    """(n,) whether the row has a key and passes the rule's threshold and its limit per image."""


class SpilledKeys:
    """Keys and groups of a table's rows in two files of a folder, 10 bytes per row."""

    def __init__(self, folder: Path, batch_rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._keys, self._groups = folder / "keys.u64", folder / "groups.u16"
        self._batch_rows = batch_rows
        self.refused: npt.NDArray[np.bool_] | None = None
        """(rows,) rows that do not pass for a reason beside the threshold; None for none."""

    def write(
        self, rows: Iterable[tuple[npt.NDArray[np.float64], npt.NDArray[np.uint16], npt.NDArray[np.bool_]]]
    ) -> None:
        """Writes batches of keys (NaN if missing), groups (below 32,768) and whether the row passes the threshold."""
        with self._keys.open("wb") as keys, self._groups.open("wb") as groups:
            for key, group, passes in rows:
                sortable_codes(key).tofile(keys)
                (group | np.where(passes, np.uint16(0), _REFUSED)).tofile(groups)

    def chunks(self) -> Iterator[Chunk]:
        """All rows in order."""
        rows = self._keys.stat().st_size // 8
        sizes = (range(min(self._batch_rows, rows - start)) for start in range(0, rows, self._batch_rows))
        return (chunk for _, chunk in self.with_chunks(sizes))

    def with_chunks(self, batches: Iterable[Any]) -> Iterator[tuple[Any, Chunk]]:
        """Consecutive batches of the table's rows, of any size, each with its chunk."""
        start = 0
        with self._keys.open("rb") as keys, self._groups.open("rb") as groups:
            for batch in batches:
                codes = np.fromfile(keys, np.uint64, len(batch))
                group = np.fromfile(groups, np.uint16, len(batch))
                passing = (codes != NOT_SCORED) & (group < _REFUSED)
                if self.refused is not None:
                    passing &= ~self.refused[start : start + len(batch)]
                yield batch, Chunk(start, codes, group & ~_REFUSED, passing)
                start += len(batch)


def sortable_codes(keys: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Integers in the same order as the floats; `NOT_SCORED` for NaN."""
    bits = keys.view(np.uint64)
    sign = np.uint64(1 << 63)
    codes = np.where(bits & sign, ~bits, bits | sign)
    codes[np.isnan(keys)] = NOT_SCORED
    return codes


def nth_smallest_id(ids: Callable[[], Iterator[Any]], count: int, max_in_memory: int = _MAX_TIES_IN_MEMORY) -> str:
    """The ``count``-th smallest id in Unicode order, without holding all ids in memory.

    Counts the ids by their next two characters and continues within the pair of the requested id until few are left.

    Args:
        ids: starts a new pass over the ids, as batches of pyarrow strings.
        count: from 1 to the number of ids.
        max_in_memory: number of ids that may be sorted in memory.
    """
    prefix = ""
    while True:
        counts: dict[str, int] = {}
        for batch in ids():
            inside = batch.filter(pc.starts_with(batch, prefix))
            pairs = pc.utf8_slice_codeunits(inside, len(prefix), len(prefix) + 2)
            for entry in pc.value_counts(pairs).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        for pair in sorted(counts):
            if count <= counts[pair]:
                break
            count -= counts[pair]
        prefix += pair
        if len(pair) < 2:  # the id ends here
            return prefix
        if counts[pair] <= max_in_memory:
            left = [name for batch in ids() for name in batch.filter(pc.starts_with(batch, prefix)).to_pylist()]
            return str(sorted(left)[count - 1])
