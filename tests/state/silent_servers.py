"""Servers that are dead, hang or answer rubbish, on real sockets of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PAGE = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
REPLY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(
    PAGE
)


@contextmanager
def silent_server(kind: str) -> Iterator[str]:
    """HOST:PORT where nobody listens (``dead``), connections are never answered (``hangs``), or all are answered with
    the page of a broken proxy (``rubbish``)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if kind == "dead":
            listener.close()
        elif kind == "rubbish":
            threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        yield address


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the listener was closed
            return
        with connection:
            connection.recv(65536)
            connection.sendall(REPLY + PAGE)
