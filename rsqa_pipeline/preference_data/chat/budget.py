"""Limits on a server's use: a cap on replies and tokens, and a rate."""

from __future__ import annotations

import threading
import time

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.preference_data.chat.reply_log import Spent
from rsqa_pipeline.profile.preference_data import ChatServer


class BudgetError(RsqaError):
    """The next reply would exceed the profile's cap. Every reply bought so far is kept."""


class Budget:
    """Counts requested replies and used tokens against the server's caps.

    Calls never exceed their cap. Tokens are known only afterwards: requests in flight when the cap is reached (at most
    ``concurrency``) are still answered.
    """

    def __init__(self, name: str, server: ChatServer, spent: Spent) -> None:
        self._name, self._server = name, server
        self._calls = spent.calls
        self._tokens = spent.input_tokens + spent.output_tokens
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Reserves one call. Raises BudgetError if a cap is reached."""
        calls, tokens = self._server.max_calls, self._server.max_tokens
        with self._lock:
            if calls is not None and self._calls >= calls:
                raise self._error("calls", self._calls, calls)
            if tokens is not None and self._tokens >= tokens:
                raise self._error("tokens", self._tokens, tokens)
            self._calls += 1

    def give_back(self) -> None:
        """Returns the reserved call of a request that the server did not answer."""
        with self._lock:
            self._calls -= 1

    def use(self, tokens: int) -> None:
        with self._lock:
            self._tokens += tokens

    def _error(self, what: str, spent: int, cap: int) -> BudgetError:
        return BudgetError(
            f"model {self._name}: {spent} {what} are used or in flight, preference_data.models.{self._name}.server."
            f"max_{what} allows {cap}. Every reply so far is kept; raise the cap and run again to resume"
        )


class Pace:
    """Spaces requests: a rate per minute, and a pause when the server asks for one."""

    def __init__(self, per_minute: int | None, stop: threading.Event) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._stop = stop
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns at this request's turn, or immediately if the run is being stopped."""
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._gap
                    return
                ahead = self._next - now
            self._stop.wait(ahead)

    def hold(self, seconds: float) -> None:
        """Blocks all requests for ``seconds`` from now."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
