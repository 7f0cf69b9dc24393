"""Prompts that a framework has rendered with a chat template (ChatML, Qwen's) as turns again."""

from __future__ import annotations

import re

from rsqa_pipeline.records import Message
from rsqa_pipeline.serving.limits import Refused

_START, _END = "<|im_start|>", "<|im_end|>"
_IMAGE_MARK = re.compile(r"<\|vision_start\|>(?:<\|(?:image|video)_pad\|>)*<\|vision_end\|>\n?|<image>\n?")
_CONTROL_TOKEN = re.compile(r"<\|(?!(?:box|quad|object_ref)_(?:start|end)\|>)\w+\|>|\[INST\]|<start_of_turn>")
_ROLES = ("system", "user", "assistant")


def read_prompt(prompt: str) -> list[Message]:
    """The turns of a prompt: a rendered chat, or the text of one question.

    Image marks are removed, because the scorer places the image itself; so are system turns, which instruct the policy
    and are not part of what is judged. A last, empty assistant turn, where the answer follows, is removed, too.

    Raises:
        Refused: 400, the prompt was rendered with another template.
    """
    if _START in prompt:
        turns = _turns(prompt)
    else:
        turns = [Message(role="user", content=prompt)] if without_image_marks(prompt).strip() else []
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns.pop()
    return clean_turns(turns)


def read_query(query: str) -> tuple[list[Message], str]:
    """Turns before the answer, and the answer, of a rendered chat that ends with it; a plain text is a caption.

    Raises:
        Refused: 400, the last turn is not the assistant's, or the query was rendered with another template.
    """
    if _START not in query:
        return [], read_answer(query)
    *before, last = _turns(query)
    if last["role"] != "assistant":
        raise Refused(
            400, "no_answer", f"the last turn of a query is the {last['role']}'s, so there is nothing to score"
        )
    return clean_turns(before), read_answer(last["content"])


def read_answer(text: str) -> str:
    """A generated text without the tokens that end a turn."""
    text = text.strip()
    while text.endswith((_END, "<|endoftext|>")):
        text = text.removesuffix(_END).removesuffix("<|endoftext|>").strip()
    return text


def clean_turns(turns: list[Message]) -> list[Message]:
    """The turns of user and assistant, without image marks.

    Raises:
        Refused: 400, a turn has tokens of another chat template.
    """
    kept = [
        Message(role=turn["role"], content=without_image_marks(turn["content"]))
        for turn in turns
        if turn["role"] != "system"
    ]
    for turn in kept:
        if found := _CONTROL_TOKEN.search(turn["content"]):
            raise Refused(
                400,
                "unknown_template",
                f"the prompt has the token {found[0]!r}; send ChatML (Qwen's template) or plain text",
            )
    return kept


def without_image_marks(text: str) -> str:
    return _IMAGE_MARK.sub("", text)


def _turns(text: str) -> list[Message]:
    before, *parts = text.split(_START)
    if before.strip():
        raise Refused(400, "unknown_template", f"there is text before the first turn: {before.strip()[:40]!r}")
    turns = []
    for part in parts:
        role, _, content = part.partition("\n")
        if role not in _ROLES:
            raise Refused(400, "unknown_template", f"a turn of {role[:40]!r}; known are {', '.join(_ROLES)}")
        turns.append(Message(role=role, content=content.partition(_END)[0]))
    return turns
