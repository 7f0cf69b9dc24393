"""A real HTTP server that speaks chat completions, and misbehaves on request."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MARKS = '{"relevance": 4, "specificity": 3.5, "completeness": 3, "clarity": 5, "richness": 2}'
KEY = "sk-secret-of-the-test"


@dataclass(frozen=True)
class Answer:
    """What the server does with one request."""

    text: str = MARKS
    """Content of the assistant's message."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent in place of a completion."""
    delay: float = 0.0
    """Seconds before anything is sent."""
    cut: bool = False
    """Announce the whole body, send half of it and close the connection."""
    usage: bool = True
    trickle: float = 0.0
    """Seconds between two bytes of the response, headers included."""


@dataclass(frozen=True)
class Seen:
    """A request as received."""

    body: dict[str, Any]
    authorization: str | None
    at: float
    """Seconds of the monotonic clock."""

    @property
    def prompt(self) -> str:
        """Text of the user's turn."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


Script = Callable[[Seen, int], Answer]
"""What to do with a request; the second argument is the number of requests before it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors: connections reset by a killed client are part of the test."""


class ChatDouble:
    """The server, running in its own thread inside a ``with`` block."""

    def __init__(self, script: Script | None = None, idempotent: bool = False) -> None:
        """
        Args:
            idempotent: a completion made for an Idempotency-Key is resent to a client with the same key, as gateways
                that support the header do. It is not made or billed again.
        """
        self.script = script or (lambda seen, number: Answer())
        self.seen: list[Seen] = []
        """Requests for which an answer was made, i.e. those that a bill would list."""
        self.answered: list[Seen] = []
        """Requests whose completion was sent in full."""
        self.replayed = 0
        self._idempotent = idempotent
        self._made: dict[str, Future[Answer]] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, seen: Seen, key: str) -> Answer:
        """Makes an answer, or resends the one made for the key, in full this time."""
        with self._lock:
            made = self._made.get(key) if self._idempotent else None
            if made is None:
                pending = self._made[key] = Future[Answer]()
                self.seen.append(seen)
                number = len(self.seen) - 1
            else:
                self.replayed += 1
        if made is not None:
            return replace(made.result(), cut=False)
        answer = self.script(seen, number)
        time.sleep(answer.delay)
        if answer.status != 200:  # an error is not kept as a reply
            with self._lock:
                self._made.pop(key, None)
        pending.set_result(answer)
        return answer

    def note_answered(self, seen: Seen) -> None:
        with self._lock:
            self.answered.append(seen)

    def __enter__(self) -> ChatDouble:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def closed_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def completion(text: str, usage: bool = True) -> bytes:
    body: dict[str, Any] = {
        "id": "c-1",
        "model": "double-2026-01",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return json.dumps(body).encode()


def _handler(double: ChatDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a body waits 40 ms for the client to acknowledge the headers

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(length)
            if len(data) < length:  # the client was killed while sending
                return
            body = json.loads(data)
            seen = Seen(body, self.headers.get("Authorization"), time.monotonic())
            answer = double.answer(seen, self.headers["Idempotency-Key"])
            good = answer.body is None and answer.status == 200
            data = completion(answer.text, answer.usage) if good else (answer.body or b'{"error": "scripted"}')
            try:
                if answer.trickle:
                    return self._trickle(answer.trickle)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if answer.cut else data)
                self.wfile.flush()
            except OSError:  # the client was killed
                return
            if answer.cut:
                self.close_connection = True
            elif good:
                double.note_answered(seen)

        def _trickle(self, seconds: float) -> None:
            self.close_connection = True
            for byte in b"HTTP/1.1 200 OK\r\nX-Wait: " + b"x" * 1000:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(seconds)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
