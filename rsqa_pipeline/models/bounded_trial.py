"""Tries code from outside in a child process, with a limit on time and memory."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Callable
from pathlib import Path

MAX_TRIAL_SECONDS = 5
"""Of processor time, so that a busy machine refuses nothing that an idle one accepts."""
MAX_WAIT_SECONDS = 60
MAX_TRIAL_BYTES = 512 * 2**20
"""Memory that the child may take beyond what this process has."""


def ends_in_child(action: Callable[[], object]) -> bool:
    """Whether ``action`` ends, by an error too, within the limits. This process is not changed by it.

    The child is a fork, which starts at once and stops long native calls, too. It must not use torch, CUDA or threads.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _try(action, writer)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], MAX_WAIT_SECONDS)
        return bool(ready) and os.read(reader, 1) == b"."
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _try(action: Callable[[], object], writer: int) -> None:
    """Writes "." when ``action`` has ended, and ends this process; writes nothing where memory ran out."""
    try:
        _set_limits()
        try:
            action()
        except MemoryError:
            return
        except Exception:
            pass  # it ends, which is what was asked
        os.write(writer, b".")
    finally:
        os._exit(0)


def _set_limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_TRIAL_SECONDS, MAX_TRIAL_SECONDS))
    pages = Path("/proc/self/statm")
    if pages.is_file():  # Linux; elsewhere only the time is limited
        allowed = int(pages.read_text().split()[0]) * resource.getpagesize() + MAX_TRIAL_BYTES
        greatest = resource.getrlimit(resource.RLIMIT_AS)[1]
        allowed = allowed if greatest == resource.RLIM_INFINITY else min(allowed, greatest)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, greatest))
