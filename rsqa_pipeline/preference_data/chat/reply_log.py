"""An append-only log of replies, one JSON line per reply. A reply is on disk before it is used.

The log is in the profile's state folder, outside the asset's scratch folder, which a fresh start empties.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.files import acquire
from rsqa_pipeline.preference_data.chat.request import Reply


@dataclass(frozen=True)
class Spent:
    """What a model's replies cost so far. Calls count every answer of the server, readable or not."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, reply: Reply | None) -> Spent:
        if reply is None:
            return Spent(self.calls + 1, self.input_tokens, self.output_tokens)
        return Spent(self.calls + 1, self.input_tokens + reply.input_tokens, self.output_tokens + reply.output_tokens)


class ReplyLog:
    """Replies by key, read back from their offset in the file. Safe for several threads, not for several processes.

    One line: ``{"key": "9f..", "model": "gpt-4o", "version": "gpt-4o-2024-08-06", "text": "{...}",
    "input_tokens": 812, "output_tokens": 41}``. ``text`` is missing if a call was spent but its reply was not
    received in full.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: another process writes the log, or a line before the last cannot be parsed.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._offsets: dict[str, tuple[int, int]] = {}
        self._spent: dict[str, Spent] = {}
        try:
            acquire(self._file, path)
        except DataError:
            os.close(self._file)
            raise
        _sync_folder(path.parent)
        self._end = 0
        try:
            self._read()
        except DataError:
            self.close()
            raise

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, key: str) -> Reply:
        offset, size = self._offsets[key]
        line = json.loads(os.pread(self._file, size, offset))
        return Reply(line["text"], line["version"], line["input_tokens"], line["output_tokens"])

    def append(self, key: str, model: str, reply: Reply) -> None:
        """Appends a reply; it is on disk when this returns."""
        self._append(
            {
                "key": key,
                "model": model,
                "version": reply.version,
                "text": reply.text,
                "input_tokens": reply.input_tokens,
                "output_tokens": reply.output_tokens,
            }
        )

    def append_lost(self, key: str, model: str) -> None:
        """Records a call that was spent without a reply: cut off, or timed out."""
        self._append({"key": key, "model": model})

    def spent(self, model: str) -> Spent:
        """What ``model`` has cost according to the log, over all runs."""
        return self._spent.get(model, Spent())

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> ReplyLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: dict[str, str | int]) -> None:
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            written = os.write(self._file, data)
            if written != len(data):  # disk full: restore the log
                os.ftruncate(self._file, self._end)
                raise DataError(f"{self.path}: only {written} of {len(data)} bytes could be written; is the disk full?")
            self._index(line, self._end, len(data))
        # Outside the lock: written data survives a kill, so one reply need not wait for another's fsync.
        os.fsync(self._file)

    def _index(self, line: dict[str, str | int], offset: int, size: int) -> None:
        self._end = offset + size
        reply = None
        if "text" in line:
            self._offsets[str(line["key"])] = (offset, size)
            reply = Reply("", "", int(line["input_tokens"]), int(line["output_tokens"]))
        model = str(line["model"])
        self._spent[model] = self.spent(model).plus(reply)

    def _read(self) -> None:
        """Indexes every line. An incomplete last line, as left by a kill, is cut off."""
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    os.ftruncate(self._file, self._end)
                    os.fsync(self._file)
                    return
                try:
                    self._index(json.loads(data), self._end, len(data))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{self.path}: line {number} is not a reply ({data[:60]!r}); delete that line. Its reply is "
                        "bought again"
                    ) from error


def _sync_folder(folder: Path) -> None:
    """Writes the file's directory entry to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
