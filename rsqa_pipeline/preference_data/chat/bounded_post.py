"""POST requests whose time and size are limited, whatever the server sends."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

MAX_BODY = 8 * 2**20
"""Bytes of a response, as received and as decoded. A completion of 4,096 tokens has about 30 kB."""


class TooLarge(Exception):
    """The response has more than `MAX_BODY` bytes, or is compressed in a way that was not offered."""


@dataclass(frozen=True)
class Response:
    """A response received in full."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def start(self) -> str:
        """The first characters of the body as one line, for error messages.

        Bytes that are not UTF-8 are replaced, and so are control characters, which a terminal would obey.
        """
        text = self.body[:300].decode("utf-8", "replace")
        return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


class BoundedPost:
    """A connection pool for several threads; ``seconds`` covers a whole request, from connecting to the last byte.

    The timeouts of HTTP clients cover one read, so a server that sends one byte per read holds a thread for ever.
    Requests therefore run in an event loop of their own thread, where a deadline can cancel them at any point.
    """

    def __init__(self, headers: Mapping[str, str], connections: int, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat requests", daemon=True)
        self._client = httpx.AsyncClient(
            headers={**headers, "Accept-Encoding": "gzip"},
            # Shorter than the whole, so that an address that never answers is not counted as a call it may bill.
            timeout=httpx.Timeout(None, connect=seconds / 2),
            limits=httpx.Limits(max_connections=connections),
            event_hooks={"response": [_without_location]},
        )

    def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        """
        Raises:
            TooLarge: see there.
            TimeoutError: the response was not complete in time; the server may have processed the request.
            httpx.TransportError: the connection failed; `httpx.ConnectError` or `httpx.ConnectTimeout` if
                there was none.
        """
        return asyncio.run_coroutine_threadsafe(self._post(url, body, headers), self._loop).result()

    async def _post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        async with (
            asyncio.timeout(self._seconds),
            self._client.stream("POST", url, json=body, headers=headers) as response,
        ):
            return Response(response.status_code, response.headers, await _read(response))

    def __enter__(self) -> BoundedPost:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _without_location(response: httpx.Response) -> None:
    """No redirect is followed, but the client parses its address and fails on some."""
    response.headers.pop("Location", None)


async def _read(response: httpx.Response) -> bytes:
    """The decoded body. Decoding stops at the limit, so that a small compressed body cannot fill the memory."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise TooLarge(f"the body is compressed by {encoding[:40]!r}; only gzip was offered")
    gzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    received, body = 0, bytearray()
    async for part in response.aiter_raw():
        received += len(part)
        try:
            body += gzip.decompress(part, MAX_BODY + 1 - len(body)) if gzip else part
        except zlib.error as error:
            raise httpx.RemoteProtocolError(f"the body is not valid gzip: {error}") from error
        if received > MAX_BODY or len(body) > MAX_BODY:
            raise TooLarge(f"the body has more than {MAX_BODY // 2**20} MiB")
    return bytes(body)
