"""The chat client against a real server that is down, slow, busy, broken or wrong; its log and its budget."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import time
import tracemalloc
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data.chat.bounded_post import MAX_BODY, Response
from rsqa_pipeline.preference_data.chat.budget import BudgetError
from rsqa_pipeline.preference_data.chat.completion import UnreadableBody, read_completion
from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog, Spent
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply, Reply
from rsqa_pipeline.preference_data.chat.server import MAX_RETRY_AFTER, ServerError, _retry_after
from rsqa_pipeline.preference_data.rubric import MarksReply
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.preference_data import ChatServer, TextModel
from rsqa_pipeline.records import Message
from tests.preference_data.chat_double import KEY, Answer, ChatDouble, Script, Seen, closed_port, completion

CPU = Compute(device="cpu")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def request(number: int = 0, image: Path | None = None, draw: int = 0) -> ChatRequest:
    turns = (Message(role="system", content="be brief"), Message(role="user", content=f"prompt {number}"))
    return ChatRequest(turns, "41" * 32, str(image) if image else None, 64, 0.0, 1.0, MarksReply, draw)


def models(url: str, folder: Path, **server: object) -> ChatModels:
    server_settings = ChatServer.model_validate({"url": url, "tries": 2, "concurrency": 2, **server})
    return ChatModels({"gpt": TextModel(model="gpt-x", server=server_settings)}, CPU, folder / "replies.jsonl")


def ask(script: Script | None, folder: Path, requests: list[ChatRequest], **server: object) -> tuple[list, ChatDouble]:
    with ChatDouble(script) as double, models(double.url, folder, **server) as opened:
        return opened["gpt"].ask(requests), double


def test_image_is_first_in_the_user_turn_as_a_data_uri_and_the_schema_is_sent(tmp_path, picture):
    replies, double = ask(None, tmp_path, [request(image=picture)])
    body = double.seen[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("gpt-x", 64, 0.0)
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    shown, text = body["messages"][1]["content"]
    assert text == {"type": "text", "text": "prompt 0"}
    head, data = shown["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 24)
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["additionalProperties"] is False
    assert schema["schema"]["properties"]["relevance"] == {
        "maximum": 5, "minimum": 1, "title": "Relevance", "type": "number",
    }  # fmt: skip
    assert replies[0].version == "double-2026-01" and replies[0].input_tokens == 100


def test_a_large_image_is_shrunk_before_it_is_sent(tmp_path):
    Image.new("RGB", (5000, 1000)).save(tmp_path / "wide.png")
    _, double = ask(None, tmp_path, [request(image=tmp_path / "wide.png")])
    data = double.seen[0].body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2048, 410)


def test_replies_come_in_the_order_of_the_prompts_and_the_same_prompt_is_asked_once(tmp_path):
    script: Script = lambda seen, number: Answer(seen.prompt, delay=0.05 if seen.prompt == "prompt 0" else 0.0)  # noqa: E731
    numbers = [0, 1, 2, 1, 3, 0]
    replies, double = ask(script, tmp_path, [request(n) for n in numbers], concurrency=4)
    assert [reply.text for reply in replies] == [f"prompt {n}" for n in numbers]
    assert len(double.seen) == 4


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=429),
        Answer(status=500),
        Answer(status=503, body=b"<html>busy</html>"),
        Answer(cut=True),
        Answer(body=b'{"choices": [{"mess'),
        Answer(body=b'{"choices": []}'),
        Answer(body=b"\xff\xfe"),
    ],
    ids=["429", "500", "503", "cut", "half a body", "no choice", "no text"],
)
def test_a_transient_fault_is_retried(tmp_path, bad):
    script: Script = lambda seen, number: bad if number == 0 else Answer()  # noqa: E731
    replies, double = ask(script, tmp_path, [request()])
    assert isinstance(replies[0], Reply) and len(double.seen) == 2


def test_a_lost_reply_is_resent_and_not_bought_again_if_the_server_knows_its_key(tmp_path):
    def script(seen: Seen, number: int) -> Answer:
        return Answer(cut=True) if number == 0 else Answer()

    with ChatDouble(script, idempotent=True) as double, models(double.url, tmp_path) as opened:
        replies = opened["gpt"].ask([request(0), request(0, draw=1)])
    assert [reply.text for reply in replies] == [Answer().text] * 2
    assert (len(double.seen), double.replayed) == (2, 1)  # another draw of the same prompt is another reply


@pytest.mark.parametrize("as_date", [False, True])
def test_every_prompt_waits_for_retry_after(tmp_path, as_date):
    def script(seen: Seen, number: int) -> Answer:
        when = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return Answer(status=429, headers={"Retry-After": when}) if number == 0 else Answer()

    replies, double = ask(script, tmp_path, [request(n) for n in range(3)], concurrency=1)
    assert all(isinstance(reply, Reply) for reply in replies)
    # A date has whole seconds: one that is 2 s ahead is at least 1 s ahead.
    assert double.seen[1].at - double.seen[0].at >= 0.95


def test_requests_respect_the_rate_limit(tmp_path):
    started = time.monotonic()
    ask(None, tmp_path, [request(n) for n in range(6)], requests_per_minute=1200, concurrency=4)
    assert time.monotonic() - started >= 5 * 60 / 1200


def test_a_slow_server_times_out_and_its_calls_count_as_spent(tmp_path):
    replies, _ = ask(lambda seen, number: Answer(delay=1.0), tmp_path, [request()], timeout_seconds=0.1)
    assert isinstance(replies[0], NoReply) and replies[0].reason == "unreachable"
    assert "within 0.1 s" in replies[0].detail
    with ReplyLog(tmp_path / "replies.jsonl") as log:
        assert (len(log), log.spent("gpt-x")) == (0, Spent(calls=2))


def test_a_server_that_sends_a_byte_at_a_time_is_cut_off_after_the_time_of_one_request(tmp_path):
    started = time.monotonic()
    slow = Answer(trickle=0.05)
    replies, _ = ask(lambda seen, number: slow, tmp_path, [request()], timeout_seconds=0.4, tries=1)
    assert isinstance(replies[0], NoReply) and replies[0].reason == "unreachable"
    assert time.monotonic() - started < 5  # the whole response would take 50 s


def peak_memory(work: Callable[[], object]) -> int:
    """Greatest number of bytes allocated by Python while ``work`` runs, above those before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"x" * (MAX_BODY + 1), {}),
        (gzip.compress(b" " * (300 * 2**20), compresslevel=9), {"Content-Encoding": "gzip"}),
        (b"?", {"Content-Encoding": "br"}),
        (b"not gzip", {"Content-Encoding": "gzip"}),
    ],
    ids=["large", "bomb", "not offered", "broken"],
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_large_or_compressed_body_is_not_read_in_full(tmp_path, body, headers, status):
    bad = Answer(status=status, body=body, headers=headers)
    found: list = []
    with ChatDouble(lambda seen, number: bad) as double, models(double.url, tmp_path, tries=1) as opened:
        peak = peak_memory(lambda: found.extend(opened["gpt"].ask([request()])))
    assert isinstance(found[0], NoReply) and found[0].reason == "unreachable"
    assert peak < 6 * MAX_BODY


def test_a_gzip_body_is_read(tmp_path):
    good = Answer(body=gzip.compress(completion("fine")), headers={"Content-Encoding": "gzip"})
    replies, _ = ask(lambda seen, number: good, tmp_path, [request()])
    assert replies[0].text == "fine"


def test_a_server_that_is_down_ends_the_run(tmp_path):
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with models(url, tmp_path, tries=1) as opened:
        few = opened["gpt"].ask([request(n) for n in range(3)])
        assert [reply.reason for reply in few] == ["unreachable"] * 3
        with pytest.raises(ServerError, match=r"10 prompts in a row.*run again"):
            opened["gpt"].ask([request(n) for n in range(40)])


def test_a_refused_prompt_is_not_retried_and_the_others_are_answered(tmp_path):
    refusal = Answer(status=400, body=b'{"error": {"message": "content policy"}}')
    script: Script = lambda seen, number: refusal if seen.prompt == "prompt 1" else Answer()  # noqa: E731
    replies, double = ask(script, tmp_path, [request(n) for n in range(3)])
    assert [isinstance(reply, Reply) for reply in replies] == [True, False, True]
    assert replies[1].reason == "refused" and "content policy" in replies[1].detail
    assert len(double.seen) == 3


@pytest.mark.parametrize(("status", "named"), [(401, "the key"), (404, "url and model"), (307, "url")])
def test_wrong_settings_end_the_run_at_once_and_name_the_setting(tmp_path, status, named):
    script: Script = lambda seen, number: Answer(status=status)  # noqa: E731
    with pytest.raises(ServerError, match=rf"HTTP {status}.*Check {named} in preference_data.models.gpt"):
        ask(script, tmp_path, [request()])


def test_the_key_is_sent_but_not_logged_or_shown_in_errors(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RSQA_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    _, double = ask(None, tmp_path, [request()], api_key_env="RSQA_TEST_KEY")
    assert double.seen[0].authorization == f"Bearer {KEY}"
    quoting = Answer(status=401, body=f"wrong key {KEY}".encode())
    with pytest.raises(ServerError, match=r"wrong key \*\*\*") as caught:
        ask(lambda seen, number: quoting, tmp_path, [request(1)], api_key_env="RSQA_TEST_KEY")
    assert KEY not in str(caught.value) + caplog.text + (tmp_path / "replies.jsonl").read_text()


def test_a_missing_key_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RSQA_TEST_KEY", raising=False)
    with pytest.raises(ServerError, match="RSQA_TEST_KEY is not set"):
        ask(None, tmp_path, [request()], api_key_env="RSQA_TEST_KEY")


def test_an_image_that_cannot_be_opened_costs_no_call(tmp_path):
    replies, double = ask(None, tmp_path, [request(image=tmp_path / "none.png")])
    assert replies[0].reason == "missing_image" and not double.seen


def test_answered_prompts_are_not_asked_again_but_another_draw_is(tmp_path):
    first, _ = ask(None, tmp_path, [request(n) for n in range(4)])
    again, double = ask(lambda seen, number: Answer(status=500), tmp_path, [request(n) for n in range(4)])
    assert again == first and not double.seen
    _, double = ask(None, tmp_path, [request(0, draw=1)])
    assert len(double.seen) == 1


def test_calls_never_exceed_their_cap_and_a_higher_cap_resumes(tmp_path):
    requests = [request(n) for n in range(12)]
    with ChatDouble() as double:
        over = pytest.raises(BudgetError, match=r"7 calls are used.*models.gpt.server.max_calls allows 7")
        with models(double.url, tmp_path, max_calls=7, concurrency=4) as opened, over:
            opened["gpt"].ask(requests)
        assert len(double.seen) == 7 == len((tmp_path / "replies.jsonl").read_text().splitlines())
        with models(double.url, tmp_path, max_calls=7) as opened, pytest.raises(BudgetError):
            opened["gpt"].ask(requests)
        assert len(double.seen) == 7
        with models(double.url, tmp_path, max_calls=12, concurrency=4) as opened:  # exactly enough
            assert all(isinstance(reply, Reply) for reply in opened["gpt"].ask(requests))
        assert len(double.seen) == 12


def test_a_failed_request_returns_its_call_but_an_unreadable_reply_does_not(tmp_path):
    script: Script = lambda seen, number: [Answer(status=500), Answer(body=b"?"), Answer()][number]  # noqa: E731
    with pytest.raises(BudgetError):
        ask(script, tmp_path, [request()], tries=3, max_calls=1)
    replies, _ = ask(lambda seen, number: Answer(), tmp_path, [request()], max_calls=2)
    assert isinstance(replies[0], Reply)


def test_tokens_stop_at_their_cap_except_for_requests_in_flight(tmp_path):
    with pytest.raises(BudgetError, match="tokens"):
        ask(None, tmp_path, [request(n) for n in range(30)], max_tokens=550, concurrency=2)
    with ReplyLog(tmp_path / "replies.jsonl") as log:
        assert 5 <= log.spent("gpt-x").calls <= 6  # 110 tokens each; the fifth reaches the cap, one may be in flight


@pytest.mark.parametrize("usage", [-1000, 2**63, "many", None, [], 1.5])
def test_token_counts_that_cannot_be_true_do_not_void_the_cap(tmp_path, usage):
    body = json.loads(completion("fine"))
    body["usage"] = {"prompt_tokens": usage, "completion_tokens": usage}
    script: Script = lambda seen, number: Answer(body=json.dumps(body).encode())  # noqa: E731
    with pytest.raises(BudgetError, match="2 calls are used"):
        ask(script, tmp_path, [request()], max_calls=2, max_tokens=1000, tries=3)


def test_a_token_count_of_zero_does_not_void_the_cap(tmp_path):
    body = json.loads(completion("fine"))
    body["usage"] = {"prompt_tokens": 0, "completion_tokens": 0}
    with pytest.raises(ServerError, match="does not report token counts"):
        ask(lambda seen, number: Answer(body=json.dumps(body).encode()), tmp_path, [request()], max_tokens=1000)


@pytest.mark.parametrize("value", ["1e999", "-5", "nan", "soon", "", "Mon, 01 Jan 99999 00:00:00 GMT", "9" * 400])
def test_an_absurd_retry_after_waits_at_most_the_cap(value):
    hold = _retry_after(Response(429, httpx.Headers({"Retry-After": value}), b""))
    assert hold is None or 0 <= hold <= MAX_RETRY_AFTER


@given(
    st.binary(max_size=400)
    | st.builds(lambda cut, junk: completion("fine")[:cut] + junk, st.integers(0, 250), st.binary(max_size=40))
)
@settings(max_examples=1000, deadline=None)
def test_any_body_is_a_reply_or_is_refused(body):
    try:
        reply = read_completion(body, "gpt-x", needs_usage=False)
    except UnreadableBody as error:
        assert len(str(error)) < 2000
    else:
        assert reply.input_tokens >= 0


def test_a_key_that_the_server_echoes_is_removed_from_the_reply(tmp_path, monkeypatch):
    monkeypatch.setenv("RSQA_TEST_KEY", KEY)
    echo = Answer(text=f"your key is {KEY}")
    replies, _ = ask(lambda seen, number: echo, tmp_path, [request()], api_key_env="RSQA_TEST_KEY")
    assert replies[0].text == "your key is ***"
    assert KEY not in (tmp_path / "replies.jsonl").read_text()


def test_a_token_cap_needs_a_server_that_reports_token_counts(tmp_path):
    with pytest.raises(ServerError, match="does not report token counts"):
        ask(lambda seen, number: Answer(usage=False), tmp_path, [request()], max_tokens=1000)


def test_usage_and_cost_include_replies_bought_earlier(tmp_path):
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 8.0}
    for _ in range(2):
        with ChatDouble() as double, models(double.url, tmp_path, **prices) as opened:
            opened["gpt"].ask([request(n) for n in range(3)])
            assert opened.usage() == {
                "replies/gpt": 3.0,
                "input_tokens/gpt": 300.0,
                "output_tokens/gpt": 30.0,
                "cost_usd/gpt": pytest.approx((300 * 2 + 30 * 8) / 1e6),
            }


def log_of(path: Path, count: int) -> list[str]:
    with ReplyLog(path) as log:
        for number in range(count):
            log.append(f"key-{number}", "m", Reply(f"text {number} \n\u2028 ü", "v", 1, 2))
    return path.read_text().splitlines(keepends=True)


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_an_incomplete_last_line_is_cut_off_and_the_log_is_resumed(tmp_path, kept):
    path = tmp_path / "replies.jsonl"
    lines = log_of(path, 3)
    path.write_text("".join(lines[:2]) + lines[2][:kept])
    with ReplyLog(path) as log:
        assert len(log) == 2 and "key-2" not in log and log["key-1"].text == "text 1 \n\u2028 ü"
        log.append("key-2", "m", Reply("again", "v"))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["key-0", "key-1", "key-2"]


def test_a_broken_line_in_the_middle_is_reported(tmp_path):
    path = tmp_path / "replies.jsonl"
    lines = log_of(path, 3)
    path.write_text(lines[0] + "{oops\n" + lines[2])
    with pytest.raises(DataError, match="line 2 is not a reply"):
        ReplyLog(path)


def test_two_runs_cannot_write_one_log(tmp_path):
    with ReplyLog(tmp_path / "replies.jsonl"), pytest.raises(DataError, match="another run"):
        ReplyLog(tmp_path / "replies.jsonl")


def test_a_key_depends_on_everything_that_changes_a_reply():
    one = request()
    others = [
        ChatRequest(one.messages[1:], one.image_id, None, 64, 0.0, 1.0, MarksReply),
        ChatRequest(one.messages, "42" * 32, None, 64, 0.0, 1.0, MarksReply),
        ChatRequest(one.messages, one.image_id, None, 65, 0.0, 1.0, MarksReply),
        ChatRequest(one.messages, one.image_id, None, 64, 0.1, 1.0, MarksReply),
        ChatRequest(one.messages, one.image_id, None, 64, 0.0, 0.9, MarksReply),
        ChatRequest(one.messages, one.image_id, None, 64, 0.0, 1.0),
        request(draw=1),
    ]
    keys = {one.key("m"), one.key("other"), *(other.key("m") for other in others)}
    assert len(keys) == len(others) + 2
    assert request(image=Path("moved.png")).key("m") == one.key("m")  # the path of the image does not matter
