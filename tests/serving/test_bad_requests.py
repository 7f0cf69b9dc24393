"""Bad requests are refused with a reason, never with a 5xx, and leave the server as it was.

``RSQA_FUZZ=10000`` sends as many damaged requests; the suite sends a few.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.conftest import QUESTION, TEXTS, TOKEN, Server

FUZZED = int(os.environ.get("RSQA_FUZZ", "200"))
HEADERS = {"authorization": f"Bearer {TOKEN}"}
TINY_BOMB = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01\x86\xa0\x00\x01\x86\xa0\x08\x02\x00\x00\x00"


def bomb() -> bytes:
    """A PNG of 144 million pixels in some hundred KB."""
    buffer = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(buffer, "PNG")
    return buffer.getvalue()


def rewards(**fields: Any) -> bytes:
    return json.dumps({"completions": ["a ship"], **fields}).encode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def stretched() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(buffer, "PNG")
    return buffer.getvalue()


LLAMA = "<|start_header_id|>user<|end_header_id|>"
BAD: dict[str, tuple[str, bytes, int, str]] = {
    "no JSON": ("/v1/rewards", b"completions", 400, "bad_request"),
    "half a JSON": ("/v1/rewards", b'{"completions": ["a', 400, "bad_request"),
    "no bytes": ("/v1/rewards", b"", 400, "bad_request"),
    "a list": ("/v1/rewards", b"[]", 400, "bad_request"),
    "no UTF-8": ("/v1/rewards", b'{"completions": ["\xff"]}', 400, "bad_request"),
    "half a surrogate": ("/v1/rewards", b'{"completions": ["\\ud800"]}', 400, "bad_request"),
    "deep": ("/v1/rewards", b"[" * 200_000, 400, "bad_request"),
    "a number for a text": ("/v1/rewards", rewards(completions=[3]), 400, "bad_request"),
    "no completions": ("/v1/rewards", b"{}", 400, "bad_request"),
    "one of the two completions": ("/v1/rewards", b'{"completion1": "a"}', 400, "bad_request"),
    "both forms of completions": ("/v1/rewards", rewards(completion1="a", completion2="b"), 400, "bad_request"),
    "10,000 completions": ("/v1/rewards", rewards(completions=["a"] * 10_000), 413, "too_many_completions"),
    "10,000 queries": ("/get_reward", json.dumps({"query": ["a"] * 10_000}).encode(), 413, "too_many_completions"),
    "a text of a million characters": ("/v1/rewards", rewards(completions=["a" * 1_000_000]), 413, "text_too_long"),
    "50 MB": ("/v1/rewards", rewards(image_data="A" * 50_000_000), 413, "body_too_large"),
    "bad base64": ("/v1/rewards", rewards(image_data="@@@@"), 400, "bad_base64"),
    "cut base64": ("/v1/rewards", rewards(image_data="AAAAA"), 400, "bad_base64"),
    "data URL without base64": ("/v1/rewards", rewards(image_data="data:image/png,abc"), 400, "bad_base64"),
    "data URL without bytes": ("/v1/rewards", rewards(image_data="data:image/png;base64,"), 400, "zero_bytes"),
    "no image": ("/v1/rewards", rewards(image_data=encoded(b"hello, this is text")), 400, "not_an_image"),
    "half an image": ("/v1/rewards", rewards(image_data=encoded(stretched()[:60])), 400, "refused_shape"),
    "decompression bomb": ("/v1/rewards", rewards(image_data=encoded(bomb())), 413, "too_large"),
    "header of a bomb": ("/v1/rewards", rewards(image_data=encoded(TINY_BOMB)), 413, "too_large"),
    "a path": ("/v1/rewards", rewards(image_data="/etc/passwd"), 400, "bad_base64"),
    "a file URL": ("/v1/rewards", rewards(image_data="file:///etc/passwd"), 400, "bad_base64"),
    "a private URL": ("/v1/rewards", rewards(image_data="http://127.0.0.1:1/a.png"), 400, "url_refused"),
    "a metadata URL": ("/v1/rewards", rewards(image_data="http://169.254.169.254/latest"), 400, "url_refused"),
    "a malformed URL": ("/v1/rewards", rewards(image_data="http://[::1/a.png"), 400, "url_refused"),
    "another model's version": ("/v1/rewards", rewards(model_version="0" * 64), 409, "other_version"),
    "a query without its prompt": ("/get_reward", b'{"query": ["a"], "prompts": ["b"]}', 400, "query_without_prompt"),
    "too few prompts": ("/get_reward", b'{"query": ["a", "b"], "prompts": ["a"]}', 400, "bad_request"),
    "two images of a query": ("/get_reward", b'{"query": ["a"], "images": [["A", "B"]]}', 400, "too_many_images"),
    "another template": (
        "/get_reward",
        json.dumps({"query": [f"{LLAMA}a"], "prompts": [LLAMA]}).encode(),
        400,
        "unknown_template",
    ),
    "a query that ends with a question": (
        "/classify",
        json.dumps({"input": "<|im_start|>user\nhow many?<|im_end|>\n"}).encode(),
        400,
        "no_answer",
    ),
    "an activation": ("/classify", b'{"input": "a", "use_activation": true}', 400, "no_activation"),
    "token ids": ("/classify", b'{"input": [[1, 2, 3]]}', 400, "bad_request"),
}


def post(server: Server, path: str, body: bytes, headers: dict[str, str] = HEADERS) -> httpx.Response:
    return httpx.post(server.url + path, content=body, headers=headers, timeout=120)


def good(server: Server) -> list[float]:
    body = json.dumps({"problem_description": QUESTION, "completions": TEXTS}).encode()
    return [item["score"] for item in post(server, "/v1/rewards", body).json()["scores"]]


def megabytes(server: Server) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_a_reason(case: str, server: Server) -> None:
    path, body, status, code = BAD[case]
    reply = post(server, path, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
    assert reply.json()["error"]["detail"]


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Bearer {TOKEN}x", TOKEN, "Basic !!", "Basic Og==", "Bearer"]
)
def test_a_wrong_token_is_refused(header: str | None, server: Server) -> None:
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/rewards", "/get_reward", "/classify"):
        reply = post(server, path, rewards(), headers)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "no_token"
    assert httpx.get(server.url + "/metrics", headers=headers).status_code == 401


def test_a_token_as_the_password_of_the_url(server: Server) -> None:
    url = server.url.replace("http://", f"http://rsqa:{TOKEN}@") + "/v1/rewards"
    assert httpx.post(url, content=rewards(), timeout=60).status_code == 200


def test_heavy_requests_leave_memory_and_scores_as_they_were(server: Server) -> None:
    before, scores = megabytes(server), good(server)
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    bodies = [rewards(image_data="A" * 50_000_000), rewards(image_data=encoded(bomb()))] * 4
    bodies += [rewards(image_data=encoded(buffer.getvalue()[:-5000]))] * 4
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda body: post(server, "/v1/rewards", body).status_code, bodies))
    assert set(replies) <= {400, 413, 429}
    assert megabytes(server) < before + 500
    assert good(server) == pytest.approx(scores, abs=1e-5)


def in_flight(server: Server) -> float:
    text = httpx.get(server.url + "/metrics", headers=HEADERS).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return families["rsqa_requests_in_flight"].samples[0].value


def test_a_client_that_is_gone_leaves_nothing_behind(server: Server) -> None:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    body = rewards(completions=["a ship"] * 200)
    head = f"POST /v1/rewards HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: "
    for sent in (body, body[:50]):  # gone while it is scored, and before the body is whole
        for _ in range(5):
            with socket.create_connection(address) as connection:
                connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + sent)
    deadline = time.monotonic() + 60
    while in_flight(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert in_flight(server) == 0
    assert len(good(server)) == len(TEXTS)


SEEDS = [
    ("/v1/rewards", {"problem_description": QUESTION, "completion1": "two", "completion2": "three", "model": "m"}),
    ("/v1/rewards", {"context": [{"role": "user", "content": "how many?"}], "completions": TEXTS, "image_data": None}),
    ("/get_reward", {"query": ["how many? two"], "prompts": ["how many? "], "labels": ["3"], "images": [None]}),
    ("/classify", {"input": ["<|im_start|>user\nhow?<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"]}),
    ("/classify", {"messages": [{"role": "user", "content": "how?"}, {"role": "assistant", "content": "two"}]}),
]
ODD: list[Any] = [None, True, -1, 1e308, float("nan"), "", "\0", "<|im_start|>", "😀" * 50, [], {}, [[]], ["a"] * 300]


def damaged(rng: random.Random, image: str) -> tuple[str, bytes]:
    """One valid request with a field replaced, or with bytes replaced, removed or doubled."""
    path, asked = rng.choice(SEEDS)
    fields = json.loads(json.dumps(asked).replace("null", json.dumps(rng.choice([image, image[:-9], "data:,"]))))
    for _ in range(rng.randrange(3)):
        fields[rng.choice([*fields, "completions", "images", "prompts", "extra"])] = rng.choice(ODD)
    body = bytearray(json.dumps(fields).encode())
    for _ in range(rng.choice([0, 1, 3, 20])):
        at = rng.randrange(len(body) + 1)
        body[at : at + rng.randrange(1, 4)] = rng.choice(
            [b"", b"\xff", b'"', b"}", body[at : at + 4] * 2, rng.randbytes(2)]
        )
    return path, bytes(body)


def test_damaged_requests_never_break_the_server(server: Server, image: Path) -> None:
    scores = good(server)
    rng = random.Random(7)
    requests = [damaged(rng, encoded(image.read_bytes())) for _ in range(FUZZED)]
    answers: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as http, ThreadPoolExecutor(8) as pool:
        for reply in pool.map(lambda request: http.post(request[0], content=request[1]), requests):
            answers[reply.status_code] += 1
            assert reply.status_code == 200 or reply.json()["error"]["code"], reply.text
            if reply.status_code == 200:
                found = reply.json()
                values = found.get("rewards") or [
                    i.get("score", (i.get("probs") or [None])[0]) for i in found.get("scores", found.get("data"))
                ]
                assert all(value is None or math.isfinite(value) for value in values)
    assert set(answers) <= {200, 400, 413} and answers[200] and answers[400], answers
    assert good(server) == pytest.approx(scores, abs=1e-5)
