"""Errors a user can act on: each says what was found, what is needed and the next step."""

from __future__ import annotations

import errno
from collections.abc import Sequence


class RsqaError(Exception):
    """Base of all errors that a user can solve; the command line prints them without a traceback."""

    exit_code = 1


class UsageError(RsqaError):
    """What was asked for does not exist or does not fit together. Found before any work; nothing has been written."""

    exit_code = 2


class ProfileError(RsqaError):
    """The profile cannot be used. Contains all faults; nothing has been written."""

    exit_code = 2

    def __init__(self, profile: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        if len(self.faults) == 1:
            super().__init__(f"profile {profile!r}: {self.faults[0]}")
            return
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"profile {profile!r} has {len(self.faults)} faults:\n{lines}")


class DataError(RsqaError):
    """Input data that cannot be quarantined row by row: a missing file, an unknown layout, no rows left.

    The message is one line, also where it quotes a library's message of several.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()).replace(" ;", ";"))


class ProfileBusy(DataError):
    """Another process writes the profile. A second writer is refused at once: it is neither queued nor retried."""


class EngineError(RsqaError):
    """Parallel scoring cannot continue: a worker process died, or an optional package is not installed."""


class ModelError(RsqaError):
    """A checkpoint that cannot be used: missing or misshapen tensors, a pickle, an unknown family."""


_STORAGE_FAULTS = {
    errno.ENOSPC: "the disk is full; free space",
    errno.EDQUOT: "the disk quota is used up; free space",
    errno.EIO: "the disk is full or failing, or a limit on file sizes is reached; check it (df, ulimit -f), free space",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f); raise the limit",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EACCES: "permission denied; check mode and owner",
    errno.EPERM: "permission denied; check mode and owner",
}
_STORAGE_WORDS = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "File too large": errno.EFBIG,
    "iostream error": errno.EIO,
    "Read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EACCES,
}
"""Words of libraries that do not raise OSError."""


def storage_error(error: BaseException) -> DataError | None:
    """What to do about an error of the disk, also one that a library wrapped; None for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        code = cause.errno if isinstance(cause, OSError) else None
        if code not in _STORAGE_FAULTS:
            code = next((known for words, known in _STORAGE_WORDS.items() if words in str(cause)), None)
        if code is not None:
            name = f"{cause.filename}: " if isinstance(cause, OSError) and cause.filename else ""
            return DataError(f"{name}{_STORAGE_FAULTS[code]}, and run the same command again; what was made stands")
        cause = cause.__cause__ or cause.__context__
    return None
