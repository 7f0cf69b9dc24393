"""Parquet tables that carry a hash of the whole file, so that a changed byte is found before a score is reused.

Parquet's own page checksums do not cover the footer, where one bit can turn floats into integers. The hash is an entry
of the file's metadata. It is computed while its own digits are zeros, so it covers every other byte.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_MARK = b"rsqa_sha256:"
_DIGITS = 64
_FOOTER = 2**20
"""Bytes at the end of a file in which the mark is looked for; the metadata's entries are near its end."""
_CHUNK = 2**20


class SealedWriter:
    """Writes a table batch by batch, and the hash of the file when the ``with`` block ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._writer = pq.ParquetWriter(path, schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def __enter__(self) -> SealedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._writer.add_key_value_metadata({"seal": (_MARK + b"0" * _DIGITS).decode()})
        self._writer.close()
        if kind is None:
            place = _place(self._path)
            assert place is not None
            with self._path.open("r+b") as file:
                file.seek(place)
                file.write(_hash(self._path, place))


def write_sealed(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table atomically, even if two processes write the same one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.scratch")
    path.parent.mkdir(parents=True, exist_ok=True)
    with SealedWriter(scratch, schema) as writer:
        writer.write(pa.Table.from_pylist(list(rows), schema=schema))
    scratch.replace(path)


def is_sealed(path: Path) -> bool:
    """Whether a file carries a hash of itself, right or wrong."""
    return _place(path) is not None


def is_whole(path: Path) -> bool:
    """Whether a file exists and is byte for byte as it was written; reads the whole file."""
    if not path.is_file():
        return False
    place = _place(path)
    if place is None:
        return False
    with path.open("rb") as file:
        file.seek(place)
        return file.read(_DIGITS) == _hash(path, place)


def _place(path: Path) -> int | None:
    """Position of the hash in the file; None if it has none."""
    start = max(0, path.stat().st_size - _FOOTER)
    with path.open("rb") as file:
        file.seek(start)
        end = file.read()
    found = end.rfind(_MARK)
    return start + found + len(_MARK) if 0 <= found <= len(end) - len(_MARK) - _DIGITS else None


def _hash(path: Path, place: int) -> bytes:
    """Hex sha256 of the file with zeros in place of the hash."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, place, _CHUNK):
            digest.update(file.read(min(_CHUNK, place - start)))
        digest.update(b"0" * _DIGITS)
        file.seek(place + _DIGITS)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest().encode()
