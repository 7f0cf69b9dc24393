"""Child processes that end when they are asked to, with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE_SECONDS = 2.0
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or SIGTERM stopped."""


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


@contextmanager
def exit_at_signal(message: str) -> Iterator[None]:
    """Ends this process with `INTERRUPTED` as soon as Ctrl-C or SIGTERM arrives, within a long native call, too.

    Only for work that may be killed at any time: nothing is cleaned up. Workers that watch their parent end with it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_exit_at_signal, args=(reader, message), daemon=True).start()
    before = {number: signal.signal(number, _leave_to_watcher) for number in (signal.SIGINT, signal.SIGTERM)}
    before_fd = signal.set_wakeup_fd(writer)  # written at once, while handlers wait for the end of a native call
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)


def _leave_to_watcher(_: int, __: FrameType | None) -> None:
    """A signal is written to the wakeup file only if Python handles it."""


def _exit_at_signal(reader: int, message: str) -> None:
    """Waits for a signal's number, or for the end of the file: the work is done."""
    while number := os.read(reader, 1):
        if number[0] in (signal.SIGINT, signal.SIGTERM):
            sys.stdout.flush()
            os.write(2, f"\n{message}\n".encode())
            os._exit(INTERRUPTED)
    os.close(reader)
