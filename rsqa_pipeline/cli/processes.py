"""Child processes that end when they are told to, with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 2.0


def stop_group(child: subprocess.Popen[bytes]) -> None:
    """Ends a child that leads a session of its own, and every process of that session, within seconds."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


@contextmanager
def stop_signals() -> Iterator[None]:
    """Makes SIGTERM do what Ctrl-C does, and Ctrl-C work in a shell that ignores it: both raise KeyboardInterrupt."""

    def stop(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
