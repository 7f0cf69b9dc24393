"""Requests and replies of the frameworks that ask for rewards.

=================  ==========================================================================================
``/v1/rewards``    the released server of ScoreRS (two completions), extended to any number of completions
``/get_reward``    OpenRLHF's remote reward model
``/classify``      vLLM's classification API, which verl asks for the scores of a reward model
=================  ==========================================================================================

In each dialect a missing score is null and its reason is given. Fields that do not matter for scores, e.g. ``labels``,
are accepted and ignored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from rsqa_pipeline.models.scoring_group import Score
from rsqa_pipeline.records import Message
from rsqa_pipeline.serving.chatml import clean_turns, read_answer, read_prompt, read_query, without_image_marks
from rsqa_pipeline.serving.limits import Refused


@dataclass(frozen=True)
class Question:
    """Completions that answer the same context about the same image."""

    image: str | None
    """As it stands in the request: base64, data URL or http URL."""
    context: Sequence[Message]
    completions: Sequence[str]


class RewardRequest(BaseModel):
    """What all dialects share."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: StrictStr | None = None
    """Ignored: the server has one model, which the reply names."""
    model_version: StrictStr | None = None
    """If given, the request is refused by a server of another version."""

    def questions(self) -> list[Question]:
        """
        Raises:
            Refused: 400, the fields do not fit together.
        """
        raise NotImplementedError

    def reply(self, scores: list[Score]) -> dict[str, Any]:
        """
        Args:
            scores: of all completions, in the order of `questions`.
        """
        raise NotImplementedError


class Turn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: StrictStr


class ScoreRsRequest(RewardRequest):
    """``{"problem_description": "How many ships?", "image_data": "data:image/png;base64,...", "completion1": "two",
    "completion2": "three"}``, or ``completions`` in place of the two. Without a problem, completions are captions."""

    problem_description: StrictStr = ""
    context: list[Turn] | None = None
    """Turns, in place of ``problem_description``."""
    image_data: StrictStr | None = None
    completion1: StrictStr | None = None
    completion2: StrictStr | None = None
    completions: list[StrictStr] | None = None

    def questions(self) -> list[Question]:
        pair = [text for text in (self.completion1, self.completion2) if text is not None]
        if (self.completions is None) == (not pair) or len(pair) == 1:
            raise Refused(400, "bad_request", "give completion1 and completion2, or completions, and not both")
        if self.context is not None:
            if self.problem_description:
                raise Refused(400, "bad_request", "give problem_description or context, not both")
            context = clean_turns([Message(role=turn.role, content=turn.content) for turn in self.context])
        else:
            problem = without_image_marks(self.problem_description)
            context = [Message(role="user", content=problem)] if problem.strip() else []
        return [Question(self.image_data or None, context, self.completions if self.completions is not None else pair)]

    def reply(self, scores: list[Score]) -> dict[str, Any]:
        named = [
            {"completion_id": f"completion{number}", "score": score.value, **_explained(score)}
            for number, score in enumerate(scores, start=1)
        ]
        return {"scores": named}


class OpenRlhfRequest(RewardRequest):
    """``{"query": [prompt + response, ...], "prompts": [prompt, ...], "images": ["data:...", ...]}``.

    Queries and prompts are rendered chats (ChatML) or plain text. Without prompts, a query is a rendered chat that ends
    with the answer, or a caption.
    """

    query: list[StrictStr]
    prompts: list[StrictStr] | None = None
    images: list[StrictStr | list[StrictStr] | None] | None = None

    def questions(self) -> list[Question]:
        images = _images(self.images, len(self.query))
        if self.prompts is None:
            split = [read_query(query) for query in self.query]
        else:
            _check_length("prompts", self.prompts, len(self.query))
            split = [_split(query, prompt) for query, prompt in zip(self.query, self.prompts, strict=True)]
        return [Question(image, context, [answer]) for image, (context, answer) in zip(images, split, strict=True)]

    def reply(self, scores: list[Score]) -> dict[str, Any]:
        values = [score.value for score in scores]
        return {"rewards": values, "scores": values, "extra_logs": {}, "reasons": [score.reason for score in scores]}


class ImageUrl(BaseModel):
    url: StrictStr


class Part(BaseModel):
    type: Literal["text", "image_url"]
    text: StrictStr = ""
    image_url: ImageUrl | None = None


class PartsTurn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: StrictStr | list[Part]


class ClassifyRequest(RewardRequest):
    """``{"input": rendered chat or a list of them, "images": [...], "use_activation": false}``, or ``messages`` with
    parts ``text`` and ``image_url``. The scores are the model's own: no activation is applied to them."""

    input: StrictStr | list[StrictStr] | None = None
    images: list[StrictStr | list[StrictStr] | None] | None = None
    messages: list[PartsTurn] | None = Field(default=None, min_length=1)
    use_activation: StrictBool | None = None
    activation: StrictBool | None = None
    softmax: StrictBool | None = None

    def questions(self) -> list[Question]:
        if self.use_activation or self.activation or self.softmax:
            raise Refused(400, "no_activation", "scores are given without activation; send use_activation: false")
        if (self.input is None) == (self.messages is None):
            raise Refused(400, "bad_request", "give input or messages, and not both")
        if self.messages is not None:
            return [_from_parts(self.messages)]
        queries = [self.input] if isinstance(self.input, str) else self.input or []
        images = _images(self.images, len(queries))
        split = [read_query(query) for query in queries]
        return [Question(image, context, [answer]) for image, (context, answer) in zip(images, split, strict=True)]

    def reply(self, scores: list[Score]) -> dict[str, Any]:
        data = [
            {"index": index, "label": "score", "probs": [score.value], "num_classes": 1, **_explained(score)}
            for index, score in enumerate(scores)
        ]
        tokens = sum(score.tokens or 0 for score in scores)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        return {"object": "list", "created": int(time.time()), "data": data, "usage": usage}


DIALECTS: dict[str, type[RewardRequest]] = {
    "/v1/rewards": ScoreRsRequest,
    "/get_reward": OpenRlhfRequest,
    "/classify": ClassifyRequest,
}


def _explained(score: Score) -> dict[str, str]:
    found = {"reason": score.reason, "detail": score.detail, "note": score.note}
    return {name: text for name, text in found.items() if text is not None}


def _split(query: str, prompt: str) -> tuple[list[Message], str]:
    if not query.startswith(prompt):
        raise Refused(400, "query_without_prompt", f"a query does not begin with its prompt {prompt[:60]!r}")
    return read_prompt(prompt), read_answer(query[len(prompt) :])


def _images(images: list[str | list[str] | None] | None, count: int) -> list[str | None]:
    """At most one image per query."""
    if images is None:
        return [None] * count
    _check_length("images", images, count)
    listed = [[found] if isinstance(found, str) else found or [] for found in images]
    if any(len(of_query) > 1 for of_query in listed):
        raise Refused(400, "too_many_images", "a text is scored with one image; found several for one query")
    return [of_query[0] if of_query else None for of_query in listed]


def _check_length(name: str, found: Sequence[object], count: int) -> None:
    if len(found) != count:
        raise Refused(400, "bad_request", f"{len(found)} {name} for {count} queries; give one per query")


def _from_parts(messages: Sequence[PartsTurn]) -> Question:
    images: list[str] = []
    turns: list[Message] = []
    for message in messages:
        parts = [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        images += [part.image_url.url for part in parts if part.image_url is not None]
        turns.append(Message(role=message.role, content="\n".join(part.text for part in parts if part.text)))
    if len(images) > 1:
        raise Refused(400, "too_many_images", f"a text is scored with one image; found {len(images)}")
    if turns[-1]["role"] != "assistant":
        raise Refused(400, "no_answer", f"the last message is the {turns[-1]['role']}'s, so there is nothing to score")
    return Question(images[0] if images else None, clean_turns(turns[:-1]), [read_answer(turns[-1]["content"])])
