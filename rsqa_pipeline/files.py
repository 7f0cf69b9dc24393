"""One process at a time: what two runs would spoil for each other, the second one is told."""

from __future__ import annotations

import fcntl
from pathlib import Path

from rsqa_pipeline.errors import DataError


def acquire(file: int, path: Path) -> None:
    """Claims ``path``, open as ``file``, for this process until that is closed, by a kill too.

    Raises:
        DataError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"{path} is being written by another run; wait for it to end, or end it") from error
