"""What a run reports while it works: events as JSON lines, for the terminal that watches it (`cli.run`)."""

from __future__ import annotations

import json
import os

_stream: int | None = None


def report_to(descriptor: int) -> None:
    """Sends the events of this process to an open file descriptor from now on."""
    global _stream
    _stream = descriptor


def report(event: str, **facts: object) -> None:
    """Sends one event; does nothing in a process that nobody watches."""
    if _stream is not None:
        os.write(_stream, (json.dumps({"event": event, **facts}) + "\n").encode())
