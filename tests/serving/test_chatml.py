"""Rendered prompts become turns again; the token is compared as a whole; image URLs only of named hosts."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.models.conversation import CHAT_TEMPLATE, render
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.records import Message
from rsqa_pipeline.serving.auth import authorized
from rsqa_pipeline.serving.chatml import read_prompt, read_query
from rsqa_pipeline.serving.limits import Limits, Memory, Refused
from rsqa_pipeline.serving.request_images import read_image
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS

TURNS = [
    Message(role="user", content="How many ships?"),
    Message(role="assistant", content="two"),
    Message(role="user", content="Where?\nIn [1, 2]?"),
]
ANSWER = Message(role="assistant", content="in the harbour <|box_start|>(1,2),(3,4)<|box_end|>")


def test_turns_of_a_rendered_chat_are_read_back() -> None:
    processor = load_processor(CHECKPOINTS / "vlm")
    assert processor.chat_template == CHAT_TEMPLATE
    for has_image in (False, True):
        assert read_prompt(render(processor, TURNS, has_image, add_generation_prompt=True)) == TURNS
        context, answer = read_query(render(processor, [*TURNS, ANSWER], has_image))
        assert (context, answer) == (TURNS, ANSWER["content"])


def test_a_plain_prompt_is_one_question_and_an_empty_one_is_a_caption() -> None:
    assert read_prompt("<image>\nHow many?") == [Message(role="user", content="How many?")]
    assert read_prompt("<image>") == read_prompt("") == []
    assert read_query("two ships<|im_end|>") == ([], "two ships")


PIECES = ["<|im_start|>", "<|im_end|>", "user\n", "assistant\n", "a", "<|x|>", "\n", "<image>"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_prompt, read_query):
        try:
            read(text)
        except Refused as refused:
            assert refused.status == 400


@given(st.text(min_size=1).filter(lambda text: text != "the token"))
def test_only_the_token_is_authorized(other: str) -> None:
    basic = base64.b64encode(b"rsqa:the token").decode()
    assert authorized("Bearer the token", "the token") and authorized(f"basic {basic}", "the token")
    assert not authorized(f"Bearer {other}", "the token") and not authorized(other, "the token")


def test_memory_is_refused_beyond_its_limit_and_free_again() -> None:
    memory = Memory(100)
    with memory.account() as one:
        one.hold(60)
        with memory.account() as other, pytest.raises(Refused, match="429"):
            other.hold(60)
        one.hold(40)
    with memory.account() as again:
        again.hold(100)


@pytest.fixture
def site(image: Path) -> Iterator[str]:
    """A web server on this machine with the image; the address is private."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(image.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_url_is_fetched_only_from_a_named_host(site: str, image: Path) -> None:
    held: list[int] = []
    found = read_image(f"{site}/{image.name}", Limits(), {"127.0.0.1"}, held.append)
    assert found.pixels.size == (64, 48) and held == [64 * 48 * 3]
    for hosts in (set(), {"example.org"}):
        with pytest.raises(Refused, match="url_refused"):
            read_image(f"{site}/{image.name}", Limits(), hosts, held.append)
    with pytest.raises(Refused, match="url_failed"):
        read_image(f"{site}/none.png", Limits(), {"127.0.0.1"}, held.append)
    with pytest.raises(Refused, match="too_large"):
        read_image(f"{site}/{image.name}", Limits(max_body_bytes=100), {"127.0.0.1"}, held.append)
