"""Reads and writes one row as a JSON object, as used in jsonl, webdataset, Hugging Face and LLaVA files.

One real row::

    {"id": "airport_1.jpg/0", "image": "airport_1.jpg", "split": "train",
     "text": "many planes are parked next to a long building in an airport ."}

Instead of ``text`` (or ``caption``) there may be ``messages`` (``role``, ``content``) or ``conversations`` (``from``,
``value``). ``split``, ``source``, ``task`` and ``scene_class`` are optional.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split, text_of

TASKS = ("caption", "scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding", "choice")
IMAGE_KEYS = ("image", "images", "file_name")
TEXT_KEYS = ("messages", "conversations", "text", "caption")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
IMAGE_PLACEHOLDER = "<image>"
CAPTION_PROMPTS = frozenset(
    {
        "provide a brief description of the given image",
        "give a short and clear explanation of the subsequent image",
        "summarize the visual content of the image",
        "render a clear and concise summary of the photo",
        "write a terse but informative summary of the picture",
        "share a concise interpretation of the image provided",
        "give a brief description of the image",
        "describe the image concisely",
        "offer a succinct explanation of the picture presented",
        "present a compact description of the photo's key features",
    }
)
"""Questions of LLaVA's pre-training (``blip_laion_cc_sbu_558k``), lower case, without a full stop. A single answer to
one is a caption."""
_TASK_NAMES: Mapping[str, str] = {
    "captioning": "caption",
    "image_captioning": "caption",
    "classification": "scene_class",
    "scene_classification": "scene_class",
    "counting": "count",
    "visual_grounding": "grounding",
    "multiple_choice": "choice",
}
"""Published task names, lower case with underscores, that differ from ``TASKS``."""


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
            messages = read_turns(_parsed(text), *(("role", "content") if name == "messages" else ("from", "value")))
        except ValueError as error:
            return RowFault(key, "bad_turns", f"{name}: {error}", reference, split)
    elif isinstance(text, str):
        messages = caption(text)
        if text.count(IMAGE_PLACEHOLDER) > 1:
            return RowFault(key, "bad_turns", f"{name} has more than one {IMAGE_PLACEHOLDER} mark", reference, split)
    else:
        found = f"{name} is {str(text)[:100]}" if name else f"none of {', '.join(TEXT_KEYS)}"
        return RowFault(key, "not_text", found, reference, split)
    task = _task(values.get("task"), messages)
    if task is None:
        return RowFault(
            key, "unknown_task", f"task is {values['task']!r}; needs one of {', '.join(TASKS)}", reference, split
        )
    return SourceRow(
        key=key,
        image=reference,
        messages=messages,
        task=task,
        source=text_of(values, "source") or source,
        split=split,
        scene_class=text_of(values, "scene_class") or None,
    )


def image_name(values: Mapping[str, Any]) -> str:
    """The row's only image, from ``image``, ``images`` (a list of one) or ``file_name``.

    Raises:
        ValueError: none, more than one, or not a name.
    """
    named = next((name for name in IMAGE_KEYS if values.get(name) is not None), IMAGE_KEYS[0])
    value = values.get(named)
    found = value if isinstance(value, list) else [value]
    if len(found) != 1:
        raise ValueError(f"{named} has {len(found)} images, needs one")
    if isinstance(found[0], str) and found[0]:
        return found[0]
    raise ValueError(f"{named} is {str(found[0])[:100]!r}, needs the name of an image file")


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

    A single question that is only the placeholder or one of `CAPTION_PROMPTS`, as in LLaVA's pre-training, is removed
    too: one assistant turn is left, a caption.

    Raises:
        ValueError: more than one placeholder, not a list, a turn without text or with an unknown role, or turns that
            are neither one assistant turn nor (system,) user, assistant, user, ..., assistant.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"needs a list of turns, found {str(turns)[:100]}")
    messages: list[Message] = []
    has_placeholder = False
    marks = 0
    for turn in turns:
        role, text = text_of(turn, role_key), _turn_text(turn, text_key)
        if role not in _ROLES or text is None:
            raise ValueError(f"turn {len(messages)} has role {role!r} and {'no ' if text is None else ''}text")
        marks += text.count(IMAGE_PLACEHOLDER)
        has_placeholder = has_placeholder or (not messages and IMAGE_PLACEHOLDER in text)
        messages.append({"role": _ROLES[role], "content": text.replace(IMAGE_PLACEHOLDER, "").strip()})
    if marks > 1:
        raise ValueError(f"{marks} marks {IMAGE_PLACEHOLDER} for one image")
    roles = [message["role"] for message in messages]
    if roles == ["assistant"]:
        return messages
    dialogue = roles[1:] if roles[0] == "system" else roles
    if not dialogue or len(dialogue) % 2 or dialogue != ["user", "assistant"] * (len(dialogue) // 2):
        raise ValueError(f"turns do not alternate from user to assistant: {', '.join(roles)}")
    if has_placeholder and roles == ["user", "assistant"] and _asks_for_a_caption(messages[0]["content"]):
        return messages[1:]
    return messages


def _turn_text(turn: Any, text_key: str) -> str | None:
    """The text of a turn: a string, or OpenAI's content parts, of which an image becomes the placeholder."""
    parts = turn.get(text_key) if isinstance(turn, dict) else None
    if not isinstance(parts, list):
        return text_of(turn, text_key)
    texts = []
    for part in parts:
        kind = text_of(part, "type")
        text = IMAGE_PLACEHOLDER if kind in ("image", "image_url") else text_of(part, "text")
        if text is None:
            raise ValueError(f"content part {str(part)[:100]} is neither text nor an image")
        texts.append(text)
    return "\n".join(texts)


def _asks_for_a_caption(question: str) -> bool:
    return not question or question.lower().rstrip(" .") in CAPTION_PROMPTS


def _task(name: Any, messages: list[Message]) -> str | None:
    """The task of a row that says ``name``; without a name, by its messages; None for an unknown name."""
    if name is None or name == "":
        return "caption" if len(messages) == 1 else "open"
    word = re.sub(r"[\s_-]+", "_", name.strip().lower()) if isinstance(name, str) else ""
    task = _TASK_NAMES.get(word, word)
    return task if task in TASKS else None


def _parsed(turns: Any) -> Any:
    """Turns that are stored as JSON text, as in Parquet and CSV files, as a list."""
    if not isinstance(turns, str):
        return turns
    try:
        return json.loads(turns, strict=False)
    except (ValueError, RecursionError):
        return turns


def write_turns(messages: list[Message]) -> list[dict[str, str]]:
    """Returns LLaVA's ``conversations``, for which `read_turns` gives the same messages; a caption answers
    ``<image>``."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    if len(messages) == 1:
        return [{"from": "human", "value": IMAGE_PLACEHOLDER}, {"from": "gpt", "value": messages[0]["content"]}]
    turns = [{"from": names[message["role"]], "value": message["content"]} for message in messages]
    first = next(turn for turn in turns if turn["from"] == "human")
    first["value"] = f"{IMAGE_PLACEHOLDER}\n{first['value']}"
    return turns
