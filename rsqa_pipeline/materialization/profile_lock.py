"""One lock per profile, held by every process that writes outputs, manifests or the model registry."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rsqa_pipeline.errors import DataError, ProfileBusy
from rsqa_pipeline.files import acquire
from rsqa_pipeline.profile import Profile

_held = threading.local()


@contextmanager
def profile_lock(profile: Profile, holder: str) -> Iterator[None]:
    """Holds the profile's lock, which the system drops when the process ends, however it ends.

    The thread that holds it may take it again: a run holds it throughout, and each asset that it makes takes it too.
    A second writer is refused, not queued: it could hold a Dagster pool slot that the first one waits for.

    Args:
        holder: what the lock is taken for, e.g. "rsqa run"; shown to the writer that is refused.

    Raises:
        ProfileBusy: another writer holds the lock; names it.
    """
    path = (profile.state / "run.lock").resolve()
    if path in _paths():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8", errors="replace") as lock:
        try:
            acquire(lock.fileno(), path)
        except DataError:
            raise ProfileBusy(
                f"profile {profile.name} is being written by {lock.read().strip() or 'another process'}; "
                "wait for it to finish, or stop it"
            ) from None
        lock.truncate(0)
        lock.write(f"{holder} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})")
        lock.flush()
        _paths().add(path)
        try:
            yield
        finally:
            _paths().discard(path)
            lock.truncate(0)
            fcntl.flock(lock, fcntl.LOCK_UN)  # also for forked children, which share the open file


def _paths() -> set[os.PathLike[str]]:
    """Locks that this thread holds."""
    if not hasattr(_held, "paths"):
        _held.paths = set()
    paths: set[os.PathLike[str]] = _held.paths
    return paths
