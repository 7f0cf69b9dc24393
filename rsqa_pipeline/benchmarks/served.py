"""Replies of a VLM behind an OpenAI-compatible server, such as vLLM: logged as they arrive, and never asked for twice.

An item without a reply is not wrong: it is left out of the model's rows, whose ``n`` is smaller, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.chat.reply_log import ReplyLog
from rsqa_pipeline.preference_data.chat.request import ChatRequest
from rsqa_pipeline.preference_data.chat.server import ServerModel
from rsqa_pipeline.profile.preference_data import TextModel
from rsqa_pipeline.records import Message


def served_replies(
    name: str,
    model: TextModel,
    items: Sequence[dict[str, Any]],
    contexts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    log: Path,
) -> list[str | None]:
    """One greedy reply per item, in their order; None where the server gave none after all tries.

    Kept by server address, model, prompt, image bytes and decoding settings. The weights behind a server are not
    known: after a change of these, delete the log or use another model name.

    Raises:
        ServerError: the settings are wrong, or the server is down; replies so far are kept. BudgetError: see
            `ServerModel.answer`.
    """
    assert model.server is not None  # the profile requires it
    requests = [
        ChatRequest(tuple(context), item["image_id"], item["image"], max_new_tokens, temperature=0.0, top_p=1.0)
        for item, context in zip(items, contexts, strict=True)
    ]
    keys = [request.key(f"{model.server.url} {model.model}") for request in requests]
    with ReplyLog(log) as replies:
        ServerModel(name, model.model, model.server).answer(dict(zip(keys, requests, strict=True)), replies)
        return [replies[key].text if key in replies else None for key in keys]
