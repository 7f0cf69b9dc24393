"""What one request, and all requests together, may ask of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of the server. A request beyond one of them is refused with a reason and is not scored in part."""

    max_body_bytes: int = 32 * MIB
    max_completions: int = 256
    """Per request."""
    max_text_chars: int = 65_536
    """Per prompt, turn or completion."""
    max_image_pixels: int = 25_000_000
    """Width times height; checked in the header, before any pixel is decoded."""
    max_memory_bytes: int = 2048 * MIB
    """Bodies and decoded images of all requests in flight."""
    body_seconds: float = 60.0
    """Time in which a request's body must have arrived."""


class Refused(Exception):
    """A request that is not answered with scores: HTTP status, a code to count and a sentence for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status, self.code, self.detail = status, code, detail
        super().__init__(f"{status} {code}: {detail}")


class Memory:
    """Counts the bytes that requests in flight hold. Safe with several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._lock = threading.Lock()

    @contextmanager
    def account(self) -> Iterator[Account]:
        """An account of one request; its bytes are free again at the end."""
        account = Account(self)
        try:
            yield account
        finally:
            self.add(-account.held)

    def add(self, size: int) -> None:
        """
        Raises:
            Refused: 429, the requests in flight hold too much.
        """
        with self._lock:
            if size > 0 and self._held + size > self._max_bytes:
                raise Refused(429, "busy", "requests in flight hold all the memory that they may; try again later")
            self._held += size


class Account:
    """The bytes that one request holds."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0

    def hold(self, size: int) -> None:
        """Adds ``size`` bytes. Raises Refused (429) if they are not free."""
        self._memory.add(size)
        self.held += size
