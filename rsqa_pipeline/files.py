"""File locks: a second run on the same files is refused."""

from __future__ import annotations

import fcntl
from pathlib import Path

from rsqa_pipeline.errors import DataError


def acquire(file: int, path: Path) -> None:
    """Locks ``path``, open as ``file``, for this process until the file is closed, also by a kill.

    Raises:
        DataError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"{path} is being written by another run; wait for it to finish, or stop it") from error
