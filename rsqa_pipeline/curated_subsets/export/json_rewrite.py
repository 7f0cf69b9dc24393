"""Copies a JSON file with only some of its records; all other bytes are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from rsqa_pipeline.source_pairs.readers.json_records import Record, records
from rsqa_pipeline.source_pairs.source_row import RowFault

_COPY_BYTES = 1 << 20


def rewrite(
    path: Path, out: Path, arrays: Sequence[str] | None, layout: str, choose: Callable[[Record], bytes | None]
) -> None:
    """Writes ``path`` to ``out`` with the chosen records of the arrays, in their order.

    The bytes before, between and after the arrays are copied. Two records are separated by the bytes that precede the
    later one in ``path``. A truncated file has no end to copy: it is closed after its last record.

    Args:
        arrays: as for `records`.
        choose: returns the bytes to write for a record, or None to leave it out.

    Raises:
        DataError: see `records`.
    """
    with path.open("rb") as source, out.open("wb") as target:
        reached = 0
        in_array = False
        written = 0
        cut = False
        for record in records(path, arrays, layout):
            if isinstance(record, RowFault):
                cut = True
                break
            chosen = choose(record)
            if record.index == 0:  # the bytes before an array are written in any case
                _copy(source, target, reached, record.start)
                in_array, written = True, 0
            if chosen is not None:
                if written:
                    _copy(source, target, reached, record.start)
                target.write(chosen)
                written += 1
            reached = record.end
        if not cut:
            _copy(source, target, reached, None)
        elif in_array:
            target.write(b"]" if arrays == () else b"]}")


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int | None) -> None:
    """Copies the bytes from ``start`` up to ``end``, or to the end of the file."""
    source.seek(start)
    while piece := source.read(_COPY_BYTES if end is None else min(_COPY_BYTES, end - source.tell())):
        target.write(piece)
