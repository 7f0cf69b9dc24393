"""Look-ups that do not fit in memory (seen ids, earlier scores), as SQLite files with a 16 MiB page cache each."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.scoring.sealed_table import is_sealed, is_whole
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import Score

log = logging.getLogger(__name__)

_CACHE_KIB = 16_384
_BATCH_ROWS = 10_000


def address(image_hash: str | None, text_hash: str) -> bytes:
    """Look-up key of a row's content: a 16-byte hash of both hashes."""
    return hashlib.blake2b(f"{image_hash or ''} {text_hash}".encode(), digest_size=16).digest()


def short_version(version: str) -> str:
    """A model version as used in column names: 12 digits of the weights' hash, and the variant if there is one.

    Example: ``"5be1c0d2a9f4e7...01.windowed_mean"`` gives ``"5be1c0d2a9f4.windowed_mean"``.
    """
    weights, mark, variant = version.partition(".")
    return weights[:12] + mark + variant


def earlier_columns(version: str) -> tuple[pa.Field, pa.Field]:
    """Columns of an earlier model's scores and notes; ``version`` as returned by `short_version`."""
    return pa.field(f"score@{version}", pa.float32()), pa.field(f"note@{version}", pa.string())


class SeenIds:
    """Ids seen so far, as 16-byte hashes: about 35 bytes of disk per id of any length."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._database = _open_database(path)
        self._database.execute("CREATE TABLE ids(id BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, key: str) -> bool:
        """Adds the id; returns whether it is new."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return self._database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (digest,)).rowcount == 1

    def close(self) -> None:
        self._database.close()


class EarlierScores:
    """Scores of the previous table, by content and model version. Read-only; can be used by several processes."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        names = [row[1] for row in self._database.execute("PRAGMA table_info(earlier)")]
        self.versions: list[str] = [name.removeprefix("score@") for name in names if name.startswith("score@")]
        """Short versions of the models that scored the table, newest first."""

    def find(self, addresses: Sequence[bytes]) -> list[dict[str, Score]]:
        """The scores of each address by short version; {} if there are none."""
        return [self._scores(self._row(one)) for one in addresses]

    def _row(self, one: bytes) -> Sequence[Any]:
        return self._database.execute("SELECT * FROM earlier WHERE address = ?", (one,)).fetchone() or ()

    def _scores(self, row: Sequence[Any]) -> dict[str, Score]:
        if not row:
            return {}
        spread, values, notes = row[1], row[2::2], row[3::2]
        scores = {
            version: Score(value, note=note)
            for version, value, note in zip(self.versions, values, notes, strict=True)
            if value is not None
        }
        if self.versions[0] in scores:
            scores[self.versions[0]] = replace(scores[self.versions[0]], spread=spread)
        return scores

    @classmethod
    def build(cls, table: Path, folder: Path) -> tuple[Path, str] | None:
        """Indexes a table of `worker.FILE_SCORE` once; returns the index and a signature (size, time).

        None if there is no table, it has no rows, or it is not as it was written; the latter is reported.

        Raises:
            DataError: the file is not a table of this kind, or carries no hash of itself.
        """
        if not table.is_file():
            return None
        stat = table.stat()
        signature = f"{stat.st_size}-{stat.st_mtime_ns}"
        file = _open_score_table(table)
        if file.metadata.num_rows == 0:
            return None
        if not is_whole(table):
            log.warning("%s has changed since it was written; none of its scores is reused", table)
            return None
        index = folder / f"earlier-{signature}.sqlite"
        scratch = index.with_suffix(f".{os.getpid()}.scratch")
        scratch.unlink(missing_ok=True)
        _write_index(file, scratch)
        scratch.replace(index)  # always written again: an SQLite file has no checksums
        return index, signature


def _open_score_table(table: Path) -> pq.ParquetFile:
    needed = {"image_hash", "text_hash", "score", "model_version", "note"}
    try:
        file = pq.ParquetFile(table, pre_buffer=False)  # otherwise everything read stays in memory
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{table} exists and is not a Parquet file: {error}; choose another path, or move it"
        ) from error
    if missing := needed - set(file.schema_arrow.names):
        raise DataError(
            f"{table} exists and is not a table of scores with hashes: it lacks {', '.join(sorted(missing))}; "
            "choose another path, or move it"
        )
    if not is_sealed(table):
        raise DataError(
            f"{table} exists and carries no hash of itself, so its scores cannot be checked before they are reused; "
            "it is from an older version or another program. Choose another path, or move it"
        )
    return file


def _write_index(file: pq.ParquetFile, path: Path) -> None:
    """Writes one row per address: the newest spread, score and note, then those of each earlier model (no spread)."""
    versions = [name.removeprefix("score@") for name in file.schema_arrow.names if name.startswith("score@")]
    pairs = [("score", "note"), *((f"score@{version}", f"note@{version}") for version in versions)]
    newest = short_version(next(file.iter_batches(1, columns=["model_version"])).column(0)[0].as_py())
    path.unlink(missing_ok=True)
    database = _open_database(path)
    # a spread is kept for the newest model only
    columns = "spread REAL, " + ", ".join(
        f'"score@{version}" REAL, "note@{version}" TEXT' for version in (newest, *versions)
    )
    database.execute(f"CREATE TABLE earlier(address BLOB PRIMARY KEY, {columns}) WITHOUT ROWID")
    marks = ", ".join("?" * (2 + 2 * len(pairs)))
    database.executemany(f"INSERT OR IGNORE INTO earlier VALUES ({marks})", _rows_by_address(file, pairs))
    database.commit()
    database.close()


def _rows_by_address(file: pq.ParquetFile, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
    columns = ["image_hash", "text_hash", "spread", *(name for pair in pairs for name in pair)]
    present = [name for name in columns if name in file.schema_arrow.names]  # older tables have no spread
    for batch in file.iter_batches(_BATCH_ROWS, columns=present):
        values = [batch.column(name).to_pylist() if name in present else [None] * len(batch) for name in columns]
        for image_hash, text_hash, *scores in zip(*values, strict=True):
            if text_hash is not None:  # prepared tensors have no text
                yield (address(image_hash, text_hash), *scores)


def _open_database(path: Path) -> sqlite3.Connection:
    """Opens a database to fill. After a kill it is built again, so it does not have to be safe on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    for setting in (
        "journal_mode = OFF",
        "synchronous = OFF",
        f"cache_size = -{_CACHE_KIB}",
    ):
        database.execute(f"PRAGMA {setting}")
    return database
