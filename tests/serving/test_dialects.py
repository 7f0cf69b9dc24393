"""Every dialect gives the scores that the scorer gives in this process."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.client import RewardClient, RewardServerError, SwiftReward, compute_score, trl_reward
from tests.serving.conftest import QUESTION, TEXTS, TOKEN, Server

TURNS = [Message(role="user", content=QUESTION)]
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    f"<|vision_start|><|image_pad|><|image_pad|><|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


def data_url(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()


def post(server: Server, path: str, asked: Any) -> dict[str, Any]:
    body = json.dumps(asked).encode()
    reply = httpx.post(server.url + path, content=body, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-request-sha256"] == reply.json()["request_sha256"] == hashlib.sha256(body).hexdigest()
    return dict(reply.json())


@pytest.fixture(scope="module")
def expected(scorer: Scorer, image: Path) -> list[float]:
    (scores,) = scorer.score([ScoringGroup(str(image), TURNS, TEXTS)])
    assert all(score is not None for score in scores) and len(set(scores)) == len(TEXTS)
    return [score for score in scores if score is not None]


def of_scores(reply: dict[str, Any]) -> list[float]:
    return [item["score"] for item in reply["scores"]]


def released(server: Server, image: Path) -> list[float]:
    """The released request has two completions."""
    asked = {"model": "PumpkinCat/ScoreRS", "problem_description": f"<image>{QUESTION}", "image_data": data_url(image)}
    pairs = [{"completion1": one, "completion2": two} for one, two in zip(TEXTS[::2], TEXTS[1::2], strict=True)]
    replies = [post(server, "/v1/rewards", asked | pair) for pair in pairs]
    assert [item["completion_id"] for item in replies[0]["scores"]] == ["completion1", "completion2"]
    return [score for reply in replies for score in of_scores(reply)]


def many(server: Server, image: Path) -> list[float]:
    asked = {"problem_description": QUESTION, "image_data": data_url(image), "completions": TEXTS}
    return of_scores(post(server, "/v1/rewards", asked))


def plain_base64(server: Server, image: Path) -> list[float]:
    encoded = base64.encodebytes(image.read_bytes()).decode()  # with line breaks
    return of_scores(post(server, "/v1/rewards", {"context": TURNS, "image_data": encoded, "completions": TEXTS}))


def openrlhf(server: Server, image: Path) -> list[float]:
    query = [f"{PROMPT}{text}<|im_end|>\n" for text in TEXTS]
    images = [data_url(image)] * len(TEXTS)
    asked = {"query": query, "prompts": [PROMPT] * len(TEXTS), "labels": ["3"] * len(TEXTS), "images": images}
    reply = post(server, "/get_reward", asked)
    assert reply["rewards"] == reply["scores"] and reply["reasons"] == [None] * len(TEXTS)
    return list(reply["rewards"])


def openrlhf_plain(server: Server, image: Path) -> list[float]:
    asked = {
        "query": [QUESTION + text for text in TEXTS],
        "prompts": [QUESTION] * len(TEXTS),
        "images": [[data_url(image)]] * len(TEXTS),
    }
    return list(post(server, "/get_reward", asked)["rewards"])


def classify(server: Server, image: Path) -> list[float]:
    asked = {
        "model": "score_model",
        "input": [f"{PROMPT}{text}<|im_end|>\n" for text in TEXTS],
        "use_activation": False,
        "images": [data_url(image)] * len(TEXTS),
    }
    reply = post(server, "/classify", asked)
    assert reply["object"] == "list" and reply["usage"]["total_tokens"] > 0
    return [item["probs"][-1] for item in reply["data"]]


def classify_messages(server: Server, image: Path) -> list[float]:
    picture = {"type": "image_url", "image_url": {"url": data_url(image)}}
    asked = [
        {
            "messages": [
                {"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]},
                {"role": "assistant", "content": text},
            ]
        }
        for text in TEXTS
    ]
    return [post(server, "/classify", one)["data"][-1]["probs"][-1] for one in asked]


@pytest.mark.parametrize(
    "dialect", [released, many, plain_base64, openrlhf, openrlhf_plain, classify, classify_messages]
)
def test_a_dialect_gives_the_scorers_scores(
    dialect: Callable[[Server, Path], list[float]], server: Server, image: Path, expected: list[float]
) -> None:
    assert dialect(server, image) == pytest.approx(expected, abs=1e-5)


def trl(client: RewardClient, image: Path) -> list[float | None]:
    prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]] * len(TEXTS)
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    with Image.open(image) as opened:
        images = [opened.copy() for _ in TEXTS]
    return trl_reward(client)(prompts=prompts, completions=completions, image=images, completion_ids=None)


def swift(client: RewardClient, image: Path) -> list[float | None]:
    messages = [[*TURNS, {"role": "assistant", "content": text}] for text in TEXTS]
    images = [[{"bytes": None, "path": str(image)}]] * len(TEXTS)
    return SwiftReward()(TEXTS, messages=messages, images=images, solution=["3"] * len(TEXTS))


def easyr1(client: RewardClient, image: Path) -> list[float | None]:
    beside = [{"response": text, "problem": QUESTION, "images": [image.read_bytes()]} for text in TEXTS[:2]]
    inside = json.dumps({"problem": QUESTION, "images": [str(image)], "answer": "3"})
    within = [{"response": text, "ground_truth": inside, "response_length": 5} for text in TEXTS[2:]]
    return [row["overall"] for row in compute_score(beside + within)]


@pytest.mark.parametrize("function", [trl, swift, easyr1])
def test_a_reward_function_gives_the_scorers_scores(
    function: Callable[[RewardClient, Path], list[float | None]],
    client: RewardClient,
    image: Path,
    expected: list[float],
) -> None:
    assert function(client, image) == pytest.approx(expected, abs=1e-5)


def test_captions_and_texts_without_an_image(client: RewardClient, scorer: Scorer, image: Path) -> None:
    caption, text = scorer.score([ScoringGroup(str(image), [], TEXTS), ScoringGroup(None, TURNS, TEXTS)])
    assert client.score(image, "", TEXTS) == pytest.approx(caption, abs=1e-5)
    assert client.score(None, QUESTION, TEXTS) == pytest.approx(text, abs=1e-5)


def test_rows_of_several_images_keep_their_order(
    client: RewardClient, scorer: Scorer, image: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40), (20, 90, 30)).save(other)
    images = [image, other, image, other]
    (first,), (second,), (fourth,) = scorer.score(
        [
            ScoringGroup(str(found), [], [text])
            for found, text in ((image, TEXTS[0]), (other, TEXTS[1]), (other, TEXTS[0]))
        ]
    )
    found = client.score_rows(images, [""] * 4, [TEXTS[0], TEXTS[1], None, TEXTS[0]])
    assert found == pytest.approx([first, second, None, fourth], abs=1e-5)


def test_a_missing_score_is_null_with_its_reason(client: RewardClient, server: Server, image: Path) -> None:
    long = " ".join(["ships and tanks"] * 200)
    turns = [Message(role="user", content=long)]
    reply = client.reply(image, turns, ["two"])
    assert reply["scores"][0]["score"] is None and reply["scores"][0]["reason"] == "context_too_long"
    assert trl_reward(client)(prompts=[turns], completions=["two"], image=[image]) == [None]
    query = {"query": [f"{long} two"], "prompts": [long], "images": [data_url(image)]}
    assert post(server, "/get_reward", query)["rewards"] == [None]
    assert post(server, "/get_reward", query)["reasons"] == ["context_too_long"]
    with pytest.raises(RewardServerError, match="has no score"):
        compute_score([{"response": "two", "problem": long, "images": [str(image)]}])


def test_a_client_refuses_another_model(server: Server, client: RewardClient, scorer: Scorer) -> None:
    client.score(None, "", ["a ship"])
    assert client.model_version == scorer.version
    with (
        RewardClient(server.url, TOKEN, model_version="0" * 64) as other,
        pytest.raises(RewardServerError, match="409"),
    ):
        other.score(None, "", ["a ship"])


def test_a_server_that_is_away_or_refuses_raises(server: Server) -> None:
    with (
        RewardClient("http://127.0.0.1:9", TOKEN, timeout=0.3) as away,
        pytest.raises(RewardServerError, match="cannot be reached"),
    ):
        away.score(None, "", ["a ship"])
    with RewardClient(server.url, "wrong", timeout=5) as wrong, pytest.raises(RewardServerError, match="401"):
        wrong.score(None, "", ["a ship"])
