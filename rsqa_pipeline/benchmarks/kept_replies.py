"""Greedy replies kept between runs, so that a killed benchmark resumes and no item is generated twice.

``replies.jsonl`` is an append log with one line per batch; ``replies.parquet`` holds the replies of complete runs and
carries a hash of itself (`sealed_table`). A batch is in the log as a whole or not at all: the next run repeats a batch
that a kill interrupted with the same rows in it, so its replies are the same to the last bit.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.scoring.sealed_table import is_whole, write_sealed
from rsqa_pipeline.files import acquire
from rsqa_pipeline.records import sha256

log = logging.getLogger(__name__)

REPLY = pa.schema([("key", pa.string()), ("text", pa.string())])
"""Example: ``{"key": "9f..", "text": "3"}``"""


class KeptReplies:
    """Replies by key (sha256 of all that a reply depends on), in a folder that one process uses at a time."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            DataError: another process uses the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._table, path = folder / "replies.parquet", folder / "replies.jsonl"
        self._texts: dict[str, str] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            acquire(self._file, path)
            self._read_table()
            self._read_log(path)
        except BaseException:
            os.close(self._file)
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._texts

    def __getitem__(self, key: str) -> str:
        return self._texts[key]

    def __len__(self) -> int:
        return len(self._texts)

    def keep(self, batch: Mapping[str, str]) -> None:
        """Appends a batch's replies by key; they are on disk when this returns."""
        body = json.dumps(dict(batch))
        line = f"{sha256(body)} {body}\n".encode()
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._table.parent}: a batch could not be written whole; is the disk full?")
        os.fsync(self._file)
        self._texts.update(batch)

    def compact(self) -> None:
        """Moves all replies into the table. A kill in between leaves them in both, which does no harm."""
        write_sealed(self._table, REPLY, [{"key": key, "text": text} for key, text in sorted(self._texts.items())])
        os.ftruncate(self._file, 0)
        os.fsync(self._file)

    def __enter__(self) -> KeptReplies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _read_table(self) -> None:
        if not self._table.exists():
            return
        if not is_whole(self._table):
            log.warning("%s has changed since it was written; its replies are generated again", self._table)
            return
        self._texts.update((row["key"], row["text"]) for row in pq.read_table(self._table).to_pylist())

    def _read_log(self, path: Path) -> None:
        """Reads every whole batch. What follows a damaged line, as a kill leaves it, is cut off."""
        end = 0
        with path.open("rb") as file:
            for line in file:
                digest, _, body = line.rstrip(b"\n").partition(b" ")
                if not line.endswith(b"\n") or digest.decode("ascii", "replace") != sha256(body):
                    log.warning("%s: the batches from byte %d on are not whole; they are generated again", path, end)
                    os.ftruncate(self._file, end)
                    return
                self._texts.update(json.loads(body))
                end += len(line)
