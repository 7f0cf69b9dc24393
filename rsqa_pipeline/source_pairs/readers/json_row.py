"""Reads and writes one row as a JSON object, as used in jsonl, webdataset, Hugging Face and LLaVA files.

One real row::

    {"id": "airport_1.jpg/0", "image": "airport_1.jpg", "split": "train",
     "text": "many planes are parked next to a long building in an airport ."}

Instead of ``text`` (or ``caption``) there may be ``messages`` (``role``, ``content``) or ``conversations`` (``from``,
``value``). ``split``, ``source``, ``task`` and ``scene_class`` are optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split, text_of

TASKS = ("caption", "scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding", "choice")
TEXT_KEYS = ("messages", "conversations", "text", "caption")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_IMAGE_PLACEHOLDER = "<image>"


def row_of(values: Mapping[str, Any], key: str, reference: str, source: str) -> Entry:
    """Returns the row in ``values``, about the image ``reference``.

    Args:
        source: who wrote the text, if the row does not say so.
    """
    split = file_split(values.get("split"))
    if values.get("split") and split is None:
        return RowFault(key, "unknown_split", f"split is {values['split']!r}", reference)
    name = next((name for name in TEXT_KEYS if values.get(name) is not None), None)
    text = values.get(name) if name is not None else None
    if name in ("messages", "conversations"):
        try:
            messages = read_turns(text, *(("role", "content") if name == "messages" else ("from", "value")))
        except ValueError as error:
            return RowFault(key, "bad_turns", f"{name}: {error}", reference, split)
    elif isinstance(text, str):
        messages = caption(text)
    else:
        found = f"{name} is {str(text)[:100]}" if name else f"none of {', '.join(TEXT_KEYS)}"
        return RowFault(key, "not_text", found, reference, split)
    task = values.get("task")
    return SourceRow(
        key=key,
        image=reference,
        messages=messages,
        task=task if task in TASKS else "caption" if len(messages) == 1 else "open",
        source=text_of(values, "source") or source,
        split=split,
        scene_class=text_of(values, "scene_class") or None,
    )


def values_of(row: SourceRow, image: str | None) -> dict[str, Any]:
    """Returns values that `row_of` reads back as the same row, without missing ones.

    Args:
        image: the image's name in the file; None if the image is stored next to the row.
    """
    values = {"id": row.key, "image": image, "messages": row.messages, **facts_of(row)}
    return {name: value for name, value in values.items() if value is not None}


def facts_of(row: SourceRow) -> dict[str, str]:
    """Task, source, split and scene class, as far as known."""
    facts = {"task": row.task, "source": row.source, "split": row.split, "scene_class": row.scene_class}
    return {name: value for name, value in facts.items() if value is not None}


def read_turns(turns: Any, role_key: str, text_key: str) -> list[Message]:
    """Returns the turns as chat messages. The placeholder ``<image>`` is removed: the image always precedes the text.

    A single question that is only the placeholder, as in LLaVA's pre-training for captions, is removed too: one
    assistant turn is left, a caption.

    Raises:
        ValueError: not a list, a turn without text or with an unknown role, or turns that are neither one assistant
            turn nor (system,) user, assistant, user, ..., assistant.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"needs a list of turns, found {str(turns)[:100]}")
    messages: list[Message] = []
    has_placeholder = False
    for turn in turns:
        role, text = text_of(turn, role_key), text_of(turn, text_key)
        if role not in _ROLES or text is None:
            raise ValueError(f"turn {len(messages)} has role {role!r} and {'no ' if text is None else ''}text")
        has_placeholder = has_placeholder or (not messages and _IMAGE_PLACEHOLDER in text)
        messages.append({"role": _ROLES[role], "content": text.replace(_IMAGE_PLACEHOLDER, "").strip()})
    roles = [message["role"] for message in messages]
    if roles == ["assistant"]:
        return messages
    dialogue = roles[1:] if roles[0] == "system" else roles
    if not dialogue or len(dialogue) % 2 or dialogue != ["user", "assistant"] * (len(dialogue) // 2):
        raise ValueError(f"turns do not alternate from user to assistant: {', '.join(roles)}")
    if has_placeholder and roles == ["user", "assistant"] and not messages[0]["content"]:
        return messages[1:]
    return messages


def write_turns(messages: list[Message]) -> list[dict[str, str]]:
    """Returns LLaVA's ``conversations``, for which `read_turns` gives the same messages; a caption answers
    ``<image>``."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    if len(messages) == 1:
        return [{"from": "human", "value": _IMAGE_PLACEHOLDER}, {"from": "gpt", "value": messages[0]["content"]}]
    turns = [{"from": names[message["role"]], "value": message["content"]} for message in messages]
    first = next(turn for turn in turns if turn["from"] == "human")
    first["value"] = f"{_IMAGE_PLACEHOLDER}\n{first['value']}"
    return turns
