"""Damaged replies of a chat server, headers included: each prompt gets a reply or a reason, within limits."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from rsqa_pipeline.preference_data.chat import server as chat_server
from rsqa_pipeline.preference_data.chat.bounded_post import Response
from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.preference_data.chat.server import ServerError
from rsqa_pipeline.preference_data.rubric import MarksReply
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.preference_data import ChatServer, TextModel
from rsqa_pipeline.records import Message
from tests.mutations import mutate, mutations, try_use
from tests.preference_data.chat_double import MARKS, completion


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


SOUND = {
    "completion": http("200 OK", completion(MARKS)),
    "gzip": http("200 OK", gzip.compress(completion(MARKS)), "Content-Encoding: gzip"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (completion(MARKS)[:90], completion(MARKS)[90:], b"")),
    "busy": http("429 Too Many Requests", b'{"error": "slow down"}', "Retry-After: 0"),
    "moved": http("302 Found", b"", "Location: http://127.0.0.1:9/v1"),
}


@contextmanager
def raw_server(replies: list[bytes]) -> Iterator[str]:
    """Sends the last of ``replies`` to every request, byte for byte, and closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                received = b""
                while b"\r\n\r\n" not in received and (part := connection.recv(65536)):
                    received += part
                head, _, body = received.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length and (part := connection.recv(65536)):
                    body += part
                with suppress(OSError):  # the client may have seen enough
                    connection.sendall(replies[-1])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("form", SOUND)
def test_mutated_replies(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "MAX_RETRY_AFTER", 0.01)  # a wait that a server asks for is not a hang
    sent = [SOUND[form]]
    with raw_server(sent) as url:
        settings = ChatServer(url=url, tries=1, concurrency=1, timeout_seconds=5)
        models = {"gpt": TextModel(model="gpt-x", server=settings)}
        with ChatModels(models, Compute(device="cpu"), tmp_path / "replies.jsonl") as opened:

            def ask(number: int) -> Reply | NoReply:
                turns = (Message(role="user", content=f"prompt {number}"),)
                (answer,) = opened["gpt"].ask([ChatRequest(turns, "41" * 32, None, 64, 0.0, 1.0, MarksReply)])
                return answer

            for number in range(mutations(60)):
                sent.append(mutate(SOUND[form], random.Random(f"{form} {number}")))
                try_use(f"{form} {number}", lambda number=number: check(ask(number)))
            sent.append(SOUND["completion"])
            answer = ask(-1)
    assert isinstance(answer, Reply) and answer.text == MARKS


def test_a_redirect_is_refused_even_if_its_address_cannot_be_parsed(tmp_path: Path) -> None:
    with raw_server([http("302 Found", b"", "Location: http:v1")]) as url:
        models = {"gpt": TextModel(model="gpt-x", server=ChatServer(url=url, tries=1))}
        turns = (Message(role="user", content="prompt"),)
        with (
            ChatModels(models, Compute(device="cpu"), tmp_path / "replies.jsonl") as opened,
            pytest.raises(ServerError, match=r"HTTP 302 .*Check url"),
        ):
            opened["gpt"].ask([ChatRequest(turns, "41" * 32, None, 64, 0.0, 1.0, MarksReply)])


def check(answer: Reply | NoReply) -> None:
    if isinstance(answer, NoReply):
        assert answer.reason in {"unreachable", "refused"} and answer.detail
    else:
        assert answer.input_tokens >= 0 and answer.output_tokens >= 0


def test_a_body_is_quoted_as_one_line_without_control_characters() -> None:
    body = b"<html>\r\n  <b>\x1b[31mno\xff</b>\n"
    assert Response(502, httpx.Headers(), body).start == "<html> <b> [31mno\N{REPLACEMENT CHARACTER}</b>"
