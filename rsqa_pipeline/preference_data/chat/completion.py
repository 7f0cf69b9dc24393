"""The request and response bodies of an OpenAI-compatible ``/chat/completions``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from rsqa_pipeline.preference_data.chat.picture import data_uri
from rsqa_pipeline.preference_data.chat.request import ChatRequest, Reply


def request_body(model: str, request: ChatRequest) -> dict[str, Any]:
    """The body of one request. The image is a data URI before the text of the first user turn.

    Raises:
        ImageFault: the image cannot be opened.
    """
    turns: list[dict[str, Any]] = [{"role": turn["role"], "content": turn["content"]} for turn in request.messages]
    if request.image is not None:
        first = next(turn for turn in turns if turn["role"] == "user")
        picture = {"type": "image_url", "image_url": {"url": data_uri(request.image)}}
        first["content"] = [picture, {"type": "text", "text": first["content"]}]
    body: dict[str, Any] = {
        "model": model,
        "messages": turns,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.draw,
    }
    if request.schema is not None:
        name, schema = request.schema.__name__, request.schema.model_json_schema()
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": True},
        }
    return body


MAX_TOKENS = 2**31
"""Highest token count of one call that is believed."""


class UnreadableBody(Exception):
    """The server answered, and may bill the call, but the body is not a completion."""


class UncountedTokens(Exception):
    """The server does not report how many tokens it used."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    completion_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)


class _Completion(BaseModel):
    model: str | None = None
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read_completion(body: bytes, model: str, needs_usage: bool) -> Reply:
    """The reply in a response's body; its text is empty if the model returned none.

    Args:
        model: the requested model; used as version if the server does not name its own.
        needs_usage: whether the token count is required; a cap on tokens cannot be enforced without it.

    Raises:
        UnreadableBody: the body is not a completion.
        UncountedTokens: the token count is required but missing, or 0 for a prompt that is not empty.
    """
    try:
        found = _Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UnreadableBody(f"no completion ({first['msg']}): {body[:200]!r}") from error
    usage = found.usage or _Usage()
    if needs_usage and usage.prompt_tokens == 0:
        raise UncountedTokens
    text = found.choices[0].message.content or ""
    return Reply(text.strip(), found.model or model, usage.prompt_tokens, usage.completion_tokens)
