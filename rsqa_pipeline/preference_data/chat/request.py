"""What a model is asked, and what it replied."""

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
    """Turns before the reply, at least one of the user; the image stands before the text of the first user turn."""
    image_id: str | None
    image: str | None
    """Reference of the image; None for a prompt of text alone."""
    max_new_tokens: int
    temperature: float
    """0 decodes greedily."""
    top_p: float
    schema: type[BaseModel] | None = None
    """JSON that a server is told to keep to; the reply is checked against it by whoever asked."""
    draw: int = 0
    """Number of the reply among those to the same prompt: a retry, a second sample."""

    def key(self, model: str) -> str:
        """Identity of the reply: sha256 of model, prompt, image, sampling parameters and draw."""
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
    """What a model said."""

    text: str
    version: str
    """Hash of the model's weights, or the model that the server says it is."""
    input_tokens: int = 0
    """Tokens read and written, as the server counts them; 0 where it does not say, and on this machine."""
    output_tokens: int = 0


@dataclass(frozen=True)
class NoReply:
    """Why there is no reply. Never kept: the next run asks again."""

    reason: str
    """``unreachable``, ``refused``, or the reason of an `ImageFault`."""
    detail: str
