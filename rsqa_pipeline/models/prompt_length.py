"""How long a prompt may be: its text takes at most half of the context, as its image does (`models.image_size`)."""

from __future__ import annotations

from collections.abc import Sequence

from rsqa_pipeline.records import Message

MAX_PROMPT_TOKENS = 8192
"""The paper's context length, of image and text together."""
MAX_TEXT_TOKENS = MAX_PROMPT_TOKENS // 2
MAX_DATA_BYTES = 3072
"""UTF-8 bytes of the turns that come from data. A token has at least one byte, so any tokenizer fits them into
MAX_TEXT_TOKENS, with the marks of the chat template and the instruction to reason."""


def overlong_prompt(turns: Sequence[Message]) -> str | None:
    """What makes the turns before an answer too long for a model to answer them; None if they fit."""
    found = sum(len(turn["content"].encode("utf-8", "surrogatepass")) for turn in turns)
    if found <= MAX_DATA_BYTES:
        return None
    return f"the turns before the answer have {found} bytes, at most {MAX_DATA_BYTES}"
