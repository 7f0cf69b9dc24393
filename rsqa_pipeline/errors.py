"""Errors a user can act on: each says what was found, what is needed and the next step."""

from __future__ import annotations

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
    """Input data that cannot be quarantined row by row: a missing file, an unknown layout, no rows left."""


class EngineError(RsqaError):
    """Parallel scoring cannot continue: a worker process died, or an optional package is not installed."""


class ModelError(RsqaError):
    """A checkpoint that cannot be used: missing or misshapen tensors, a pickle, an unknown family."""
