"""Errors a user can act on: each says what was found, what is needed and the next step."""

from __future__ import annotations

from collections.abc import Sequence


class RsqaError(Exception):
    """Base of every error that is the user's to solve; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(RsqaError):
    """What was asked for does not exist or does not fit together. Found before any work; nothing has been written."""

    exit_code = 2


class ProfileError(RsqaError):
    """The profile cannot be used. Carries every fault at once; nothing has been written."""

    exit_code = 2

    def __init__(self, profile: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__(f"profile {profile!r} has {count}:\n{lines}")


class DataError(RsqaError):
    """Input data that no row-wise quarantine can save: a missing file, an unknown layout, nothing left."""


class EngineError(RsqaError):
    """What scores in parallel cannot go on: a worker process died, or an optional package is not installed."""


class ModelError(RsqaError):
    """A checkpoint that cannot be used: missing or misshapen tensors, a pickle, an unknown family."""
