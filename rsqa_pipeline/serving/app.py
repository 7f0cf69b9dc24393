"""The HTTP application: one handler for all dialects, health, readiness and metrics."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from rsqa_pipeline.serving.auth import authorized
from rsqa_pipeline.serving.batching import Batcher, DecodedQuestion
from rsqa_pipeline.serving.dialects import DIALECTS, RewardRequest
from rsqa_pipeline.serving.golden import GoldenSample
from rsqa_pipeline.serving.limits import Account, Limits, Memory, Refused
from rsqa_pipeline.serving.metrics import Metrics
from rsqa_pipeline.serving.request_images import RequestImage, read_image

T = TypeVar("T")
DIGEST_HEADER = "x-request-sha256"
READERS = 2
"""Threads that parse requests and decode their images."""
DISCARDED = 4
"""A body of up to this many times the limit is read and thrown away, so that its client gets to see the refusal."""


@dataclass(frozen=True)
class Served:
    """What the application needs to answer."""

    model: str
    version: str
    batcher: Batcher
    golden: GoldenSample
    metrics: Metrics
    token: str
    limits: Limits
    image_hosts: Collection[str]
    """Hosts whose image URLs are fetched."""


class RewardApp:
    """The handlers. ``draining`` is set when the server is to stop: what is in flight is answered, new requests
    are refused."""

    def __init__(self, served: Served) -> None:
        self.draining = False
        self._served = served
        self._memory = Memory(served.limits.max_memory_bytes)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="request")
        self.asgi = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=self._lifespan)
        for path in DIALECTS:
            self.asgi.add_api_route(path, self.rewards, methods=["POST"])
        self.asgi.add_api_route("/healthz", self.healthz, methods=["GET"])
        self.asgi.add_api_route("/readyz", self.readyz, methods=["GET"])
        self.asgi.add_api_route("/metrics", self.metrics, methods=["GET"])

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self._served.batcher.close)
        self._readers.shutdown()

    async def healthz(self) -> Response:
        """Whether the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Whether the golden sample gets the scores that it had at the start."""
        fault = "draining" if self.draining else await self._served.golden.fault(self._served.batcher)
        state = {"status": "not ready" if fault else "ready", "model_version": self._served.version}
        return JSONResponse(state | ({"reason": fault} if fault else {}), 503 if fault else 200)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text; needs the token."""
        if not authorized(request.headers.get("authorization"), self._served.token):
            return _refusal(_no_token())
        return Response(self._served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def rewards(self, request: Request) -> Response:
        """Scores, or a refusal with its reason."""
        metrics, path, started = self._served.metrics, request.url.path, time.perf_counter()
        with metrics.in_flight.track_inprogress():
            try:
                reply = await self._answer(request)
            except Refused as refused:
                metrics.refused.labels(refused.code).inc()
                reply = _refusal(refused)
            metrics.seconds.labels(path).observe(time.perf_counter() - started)
            metrics.requests.labels(path, reply.status_code).inc()
            return reply

    async def _answer(self, request: Request) -> Response:
        served = self._served
        if not authorized(request.headers.get("authorization"), served.token):
            raise _no_token()
        if self.draining:
            raise Refused(503, "draining", "the server is stopping and takes no new requests")
        with self._memory.account() as account:
            body = await read_body(request, served.limits, account)
            digest = hashlib.sha256(body).hexdigest()
            try:
                parsed, questions = await asyncio.get_running_loop().run_in_executor(
                    self._readers, self._read, DIALECTS[request.url.path], body, account
                )
                scores = await _unless_gone(request, served.batcher.score(questions)) if questions else []
            except Refused as refused:
                return self._refused_with_digest(refused, digest)
        served.metrics.count_scores(scores)
        version = {"model": served.model, "model_version": served.version, "request_sha256": digest}
        return JSONResponse(version | parsed.reply(scores), headers={DIGEST_HEADER: digest})

    def _refused_with_digest(self, refused: Refused, digest: str) -> Response:
        self._served.metrics.refused.labels(refused.code).inc()
        reply = _refusal(refused)
        reply.headers[DIGEST_HEADER] = digest
        return reply

    def _read(
        self, dialect: type[RewardRequest], body: bytes, account: Account
    ) -> tuple[RewardRequest, list[DecodedQuestion]]:
        """Parses a request and decodes its images, each once."""
        served = self._served
        try:
            parsed = dialect.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))[:200]
            raise Refused(400, "bad_request", f"{where}: {first['msg']}" if where else str(first["msg"])) from error
        if parsed.model_version not in (None, served.version):
            raise Refused(409, "other_version", f"the server's model has the version {served.version}")
        questions = parsed.questions()
        self._check_count([question.completions for question in questions])
        images: dict[str, RequestImage] = {}
        decoded = []
        for question in questions:
            for text in (*(turn["content"] for turn in question.context), *question.completions):
                if len(text) > served.limits.max_text_chars:
                    detail = f"a text has {len(text)} characters, allowed are {served.limits.max_text_chars}"
                    raise Refused(413, "text_too_long", detail)
            source = question.image
            if source is not None and source not in images:
                images[source] = read_image(source, served.limits, served.image_hosts, account.hold)
            image = None if source is None else images[source]
            decoded.append(DecodedQuestion(image, question.context, question.completions))
        return parsed, [question for question in decoded if question.completions]

    def _check_count(self, completions: list[Any]) -> None:
        count, allowed = sum(map(len, completions)), self._served.limits.max_completions
        if count > allowed:
            raise Refused(413, "too_many_completions", f"{count} completions, allowed are {allowed} per request")


async def read_body(request: Request, limits: Limits, account: Account) -> bytes:
    """The request's body, within the limits of size and time.

    Raises:
        Refused: 413, 408, 429, or 400 if the client is gone.
    """
    body = bytearray()
    arrived = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                arrived += len(chunk)
                if arrived <= limits.max_body_bytes:
                    account.hold(len(chunk))
                    body += chunk
                elif arrived > DISCARDED * limits.max_body_bytes:
                    break
    except TimeoutError:
        raise Refused(408, "body_too_slow", f"the body did not arrive in {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise _client_gone() from None
    if arrived > limits.max_body_bytes:
        raise Refused(413, "body_too_large", f"a request may have {limits.max_body_bytes} bytes")
    return bytes(body)


async def _unless_gone(request: Request, scoring: Coroutine[Any, Any, T]) -> T:
    """The result of ``scoring``, which is cancelled as soon as the client is gone.

    Raises:
        Refused: the client is gone. Nobody reads this; it is counted.
    """
    work, gone = asyncio.create_task(scoring), asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise _client_gone()
    finally:
        work.cancel()
        gone.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(refused: Refused) -> JSONResponse:
    headers = {"retry-after": "1"} if refused.status in (429, 503) else {}
    if refused.status == 401:
        headers = {"www-authenticate": "Bearer"}
    if refused.status in (408, 413):
        headers = {"connection": "close"}  # the rest of the body is not read
    return JSONResponse({"error": {"code": refused.code, "detail": refused.detail}}, refused.status, headers)


def _no_token() -> Refused:
    return Refused(401, "no_token", "send the server's token: Authorization: Bearer TOKEN")


def _client_gone() -> Refused:
    return Refused(400, "client_gone", "the client closed the connection")
