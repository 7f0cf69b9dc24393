"""A prompt to a model, and its reply."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import BaseModel

from rsqa_pipeline.records import Message, canonical_messages, sha256


@dataclass(frozen=True)
class ChatRequest:
    """One prompt. Example: ``ChatRequest(({"role": "user", "content": "Describe this satellite image in detail."},),
    "41..", "images.tar#512+4311", max_new_tokens=64, temperature=1.0, top_p=0.95)``.
    """

    messages: tuple[Message, ...]
    """Turns before the reply, with at least one user turn. The image goes before the text of the first user turn."""
    image_id: str | None
    image: str | None
    """Reference of the image; None for a text-only prompt."""
    max_new_tokens: int
    temperature: float
    """0 decodes greedily."""
    top_p: float
    schema: type[BaseModel] | None = None
    """JSON schema that the server is asked to follow; the caller checks the reply against it."""
    draw: int = 0
    """Index of the reply among those to the same prompt, e.g. for a retry or a second sample."""

    def key(self, model: str) -> str:
        """Identity of the reply: sha256 of model, prompt, image id, sampling parameters, schema and draw."""
        parameters = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "schema": self.schema.model_json_schema() if self.schema else None,
            "draw": self.draw,
        }
        return sha256(
            model, canonical_messages(self.messages), self.image_id or "", json.dumps(parameters, sort_keys=True)
        )


@dataclass(frozen=True)
class Reply:
    """A model's reply."""

    text: str
    version: str
    """Hash of the model's weights, or the model that the server reports."""
    input_tokens: int = 0
    """Tokens read and written, as reported by the server; 0 if it does not report them, and on this machine."""
    output_tokens: int = 0


PROMPT_TOO_LONG = "prompt_too_long"


@dataclass(frozen=True)
class NoReply:
    """Why there is no reply. Not logged: the next run asks again."""

    reason: str
    """``unreachable``, ``refused``, `PROMPT_TOO_LONG`, or the reason of an `ImageFault`."""
    detail: str
