"""The reward server's client, and reward functions on it for TRL, ms-swift and EasyR1.

A call that fails raises; a missing score is None (TRL, ms-swift) or raises (EasyR1, which knows no missing reward). It
is never a number. Frameworks that load a reward function by its name take server and token from the environment:
``RSQA_REWARD_URL`` and ``RSQA_REWARD_TOKEN``. Importing this module loads neither torch nor the server.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from PIL import Image
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.images.decode import read_bytes
from rsqa_pipeline.records import Message
from rsqa_pipeline.serving.auth import TOKEN_VARIABLE

URL_VARIABLE = "RSQA_REWARD_URL"
PARALLEL = 8
"""Requests of one call that are on their way at once; one request has all completions of a prompt."""
Rewards = list[float | None]
AnswerOf = Callable[[str], str | None]


class RewardServerError(RsqaError):
    """The server refused a request, could not be reached, or its reply does not belong to the request."""


class _Busy(Exception):
    """The server asks to try again later."""


class RewardClient:
    """Scores completions on a reward server. Safe with several threads.

    with RewardClient("http://127.0.0.1:8000", token) as client:
        client.score("harbour.jpg", "How many ships are there?", ["two", "three"])  # [1.2, -0.4]
    """

    def __init__(self, url: str, token: str, timeout: float = 300.0, model_version: str | None = None) -> None:
        """
        Args:
            timeout: seconds of one reply; and of trying again while the server is busy or cannot be reached.
            model_version: refuse a server with another model. By default, the version of the first reply holds.
        """
        self.model_version = model_version
        self._url = url.rstrip("/")
        self._http = httpx.Client(timeout=timeout, headers={"authorization": f"Bearer {token}"}, trust_env=False)
        self._retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _Busy)),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=stop_after_delay(timeout),
            reraise=True,
        )

    @classmethod
    def from_environment(cls) -> RewardClient:
        """
        Raises:
            RewardServerError: ``RSQA_REWARD_URL`` or ``RSQA_REWARD_TOKEN`` is not set.
        """
        missing = [name for name in (URL_VARIABLE, TOKEN_VARIABLE) if not os.environ.get(name)]
        if missing:
            raise RewardServerError(f"set {' and '.join(missing)} to the server's address and token")
        return cls(os.environ[URL_VARIABLE], os.environ[TOKEN_VARIABLE])

    def score(self, image: Any, prompt: str | Sequence[Message], completions: Sequence[str]) -> Rewards:
        """Scores of completions about one image, in one request; None where there is no score.

        Args:
            image: path or reference, stored bytes, PIL image, a mapping with ``bytes`` or ``path`` (as Hugging Face
                datasets store images), or None. Stored bytes are sent as they are.
            prompt: a question, or the turns before the completions; empty for captions.

        Raises:
            RewardServerError: see there.
            ImageFault: the image's file cannot be read.
        """
        return [item["score"] for item in self.reply(image, prompt, completions)["scores"]]

    def reply(self, image: Any, prompt: str | Sequence[Message], completions: Sequence[str]) -> dict[str, Any]:
        """As `score`, but the whole reply, with the reason of each missing score."""
        asked: dict[str, Any] = {"completions": list(completions), "model_version": self.model_version}
        asked |= {"problem_description": prompt} if isinstance(prompt, str) else {"context": list(prompt)}
        if (data := stored_bytes(image)) is not None:
            asked["image_data"] = "data:;base64," + base64.b64encode(data).decode()
        body = json.dumps(asked).encode()
        try:
            response = self._retrying(self._post, body)
        except _Busy as error:
            raise RewardServerError(f"{self._url} was busy until the time was over: {error}") from error
        except httpx.HTTPError as error:
            raise RewardServerError(f"{self._url} cannot be reached: {error!r}") from error
        reply: dict[str, Any] = response.json()
        if reply["request_sha256"] != hashlib.sha256(body).hexdigest():
            raise RewardServerError("the reply belongs to another request; is there a faulty proxy in between?")
        if len(reply["scores"]) != len(completions):
            raise RewardServerError(f"{len(reply['scores'])} scores for {len(completions)} completions")
        self.model_version = reply["model_version"]
        return reply

    def _post(self, body: bytes) -> httpx.Response:
        response = self._http.post(
            f"{self._url}/v1/rewards", content=body, headers={"content-type": "application/json"}
        )
        if response.status_code in (429, 503):
            raise _Busy(response.text)
        if response.status_code != 200:
            raise RewardServerError(f"{self._url} answered {response.status_code}: {response.text[:500]}")
        return response

    def score_rows(
        self, images: Sequence[Any], prompts: Sequence[str | Sequence[Message]], completions: Sequence[str | None]
    ) -> Rewards:
        """One score per row. Rows with equal image and prompt are one request; None for a completion of None."""
        requests: dict[tuple[str, str], list[int]] = {}
        for row, (image, prompt, completion) in enumerate(zip(images, prompts, completions, strict=True)):
            if completion is not None:
                requests.setdefault((image_key(image), json.dumps(prompt)), []).append(row)
        rewards: Rewards = [None] * len(completions)

        def ask(rows: list[int]) -> Rewards:
            return self.score(images[rows[0]], prompts[rows[0]], [completions[row] or "" for row in rows])

        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="reward") as pool:
            for rows, scores in zip(requests.values(), pool.map(ask, requests.values()), strict=True):
                for row, score in zip(rows, scores, strict=True):
                    rewards[row] = score
        return rewards

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def trl_reward(client: RewardClient, answer_of: AnswerOf | None = None) -> Callable[..., Rewards]:
    """A reward function for TRL's trainers, whose reward is the score itself. None is a missing reward for TRL.

    The image of a row is in the training set's column ``image``, or alone in its list ``images``, as TRL's trainers of
    VLMs have it; a training set without them has no images.

    Args:
        answer_of: the part of a completion that is scored, or None where there is none, e.g.
            `rsqa_pipeline.rl_policy.rewards.read_answer`; by default, the whole completion.
    """

    def score_model_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        texts = [turns if isinstance(turns, str) else _text(turns[-1]["content"]) for turns in completions]
        answers = [answer_of(text) if answer_of is not None else text for text in texts]
        contexts = [prompt if isinstance(prompt, str) else _turns(prompt) for prompt in prompts]
        found = columns.get("image") or columns.get("images") or [None] * len(texts)
        return client.score_rows([_only_image(of_row) for of_row in found], contexts, answers)

    return score_model_reward


class SwiftReward:
    """ms-swift's reward class: register it in a plugin with ``orms["rsqa_score"] = SwiftReward``."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._client = RewardClient.from_environment()

    def __call__(self, completions: Sequence[str], **columns: Any) -> Rewards:
        """
        Args:
            columns: ``messages`` (turns up to the completion; a last assistant turn is the completion itself and is
                left out) and ``images`` (a list per row) of the training set.
        """
        contexts = [_turns(turns) for turns in columns["messages"]]
        contexts = [turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns for turns in contexts]
        images = [_only_image(of_row) for of_row in columns.get("images") or [None] * len(completions)]
        return self._client.score_rows(images, contexts, completions)


def compute_score(reward_inputs: Sequence[Mapping[str, Any]], **_: Any) -> list[dict[str, float]]:
    """EasyR1's batch reward function: ``reward_function: .../rsqa_pipeline/serving/client.py:compute_score``.

    Args:
        reward_inputs: each with ``response``; ``problem`` and ``images`` stand beside it, or in ``ground_truth`` as a
            JSON object, because EasyR1 passes only the ground truth of a row.

    Raises:
        RewardServerError: a response has no score.
    """
    rows = [{**_json_object(row.get("ground_truth")), **row} for row in reward_inputs]
    with RewardClient.from_environment() as client:
        scores = client.score_rows(
            [_only_image(row.get("images")) for row in rows],
            [str(row.get("problem", "")) for row in rows],
            [str(row["response"]) for row in rows],
        )
    if None in scores:
        raise RewardServerError(
            f"response {scores.index(None)} of {len(scores)} has no score; see the server's metrics"
        )
    return [{"overall": score} for score in scores if score is not None]


def stored_bytes(image: Any) -> bytes | None:
    """The bytes that are sent for an image of any form that `RewardClient.score` takes."""
    if image is None or isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
    if isinstance(image, Mapping):
        return image["bytes"] if image.get("bytes") else read_bytes(str(image["path"]))
    if isinstance(image, str | Path):
        return read_bytes(str(image))
    raise TypeError(f"an image must be a path, bytes, a PIL image or a mapping, found {type(image).__name__}")


def image_key(image: Any) -> str:
    """Equal for images of one batch that are surely equal."""
    if image is None or isinstance(image, str | Path):
        return f"path {image}"
    return hashlib.sha256(stored_bytes(image) or b"").hexdigest()


def _turns(turns: Sequence[Mapping[str, Any]]) -> list[Message]:
    return [Message(role=turn["role"], content=_text(turn["content"])) for turn in turns]


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """A turn's text; images among its parts are sent apart."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text" and part.get("text"))


def _only_image(images: Any) -> Any:
    """The image of a row.

    Raises:
        RewardServerError: the row has several images; a text is scored with one.
    """
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        return images
    if len(images) > 1:
        raise RewardServerError(f"a row has {len(images)} images; a text is scored with one")
    return images[0] if images else None


def _json_object(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return dict(found) if isinstance(found, Mapping) else {}
