"""Reads and writes one row as a JSON object, as used in jsonl, webdataset, Hugging Face and LLaVA files.

One real row::

    {"id": "airport_1.jpg/0", "image": "airport_1.jpg", "split": "train",
     "text": "many planes are parked next to a long building in an airport ."}

Instead of ``text`` (or ``caption``) there may be ``messages`` (``role``, ``content``) or ``conversations`` (``from``,
``value``). ``captions``, ``caption`` or ``text`` may be a list: one row per caption. ``split``, ``source``, ``task``
and ``scene_class`` are optional.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.readers.named_images import (
    IMAGE_MARK,
    IMAGE_PARTS,
    TEXT_PARTS,
    check_named_images,
    check_named_in_text,
)
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions, plain_question
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKeyError, decode
from rsqa_pipeline.source_pairs.source_row import (
    Entry,
    RowFault,
    SourceRow,
    caption,
    file_split,
    is_missing,
    text_of,
    texts_fault,
)

TASKS = ("caption", "scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding", "choice")
IMAGE_KEYS = ("image", "images", "file_name")
CAPTION_KEYS = ("text", "caption", "captions")
"""Hold one caption or a list of captions."""
TEXT_KEYS = ("messages", "conversations", *CAPTION_KEYS)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
IMAGE_PLACEHOLDER = "<image>"
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


def rows_of(
    values: Mapping[str, Any],
    key: str,
    reference: str,
    source: str,
    options: ReaderOptions = DEFAULT_OPTIONS,
    image: str | None = None,
) -> list[Entry]:
    """Returns the rows in ``values``, about the image ``reference``: one, or one per caption of a list, with its
    position in the key. At least one entry is returned.

    Args:
        values: under this project's names (`ReaderOptions.renamed`).
        source: who wrote the text, if the row does not say so.
        image: the image's name in the file, which turns may repeat; None if it has none.
    """
    split = file_split(values.get("split"))
    if not is_missing(values.get("split")) and split is None:
        return [RowFault(key, "unknown_split", f"split is {values['split']!r}", reference)]
    fault = texts_fault(values, "source", "scene_class")
    if fault is not None:
        return [RowFault(key, "bad_row", fault, reference, split)]
    keys: Sequence[str] = [name for name in TEXT_KEYS if name in options.columns] or TEXT_KEYS
    given = [name for name in keys if not is_missing(values.get(name)) and values[name] != []]
    if any(_as_list(values[name]) != _as_list(values[given[0]]) for name in given):
        detail = f"{' and '.join(map(options.column, given))} hold different texts; name one in columns: {{{given[0]}:"
        return [RowFault(key, "bad_row", f"{detail} {options.column(given[0])}}}", reference, split)]
    name = next((name for name in (*given, *keys) if values.get(name) is not None), None)
    own = [reference, *([image] if image else [])]
    if name is None:
        found = f"none of {', '.join(map(options.column, keys))}; found {', '.join(map(str, values))[:200]}"
        detail = f"{found}; a key of another name is named in columns: {{text: NAME}}"
        return [RowFault(key, "not_text", detail, reference, split)]
    text = values[name]
    if not isinstance(text, list) or name not in CAPTION_KEYS:
        return [_row_of(values, name, text, key, own, source, options)]
    if not text:
        return [RowFault(key, "no_captions", f"{name} is an empty list", reference, split)]
    return [
        _row_of(values, name, caption, f"{key}/{position}", own, source, options)
        for position, caption in enumerate(text)
    ]


def _row_of(
    values: Mapping[str, Any], name: str, text: Any, key: str, own: Sequence[str], source: str, options: ReaderOptions
) -> Entry:
    """The row of one text, ``values[name]`` or an element of it. ``own`` are the image's reference and its name."""
    reference = own[0]
    split = file_split(values.get("split"))
    prompt = None
    if name in ("messages", "conversations"):
        keys = ("role", "content") if name == "messages" else ("from", "value")
        try:
            turns = _parsed(text)
            check_named_images(turns, keys[1], own)
            messages, prompt = without_caption_prompt(*read_turns(turns, *keys), options.caption_prompts)
        except ValueError as error:
            return RowFault(key, "bad_turns", f"{name}: {error}", reference, split)
    elif isinstance(text, str):
        try:
            messages = caption(plain_caption(text, own))
        except ValueError as error:
            return RowFault(key, "bad_turns", f"{name}: {error}", reference, split)
    else:
        return RowFault(key, "not_text", f"{name} is {str(text)[:100]}", reference, split)
    task = _task(values.get("task"), messages)
    if task is None:
        needed = f"task is {values['task']!r}; needs one of {', '.join(TASKS)}"
        return RowFault(key, "unknown_task", needed, reference, split)
    return SourceRow(
        key=key,
        image=reference,
        messages=messages,
        task=task,
        source=text_of(values, "source") or source,
        split=split,
        scene_class=text_of(values, "scene_class") or None,
        caption_prompt=prompt,
    )


def plain_caption(text: str, own: Sequence[str]) -> str:
    """The text without the mark of its image, whose names are ``own``.

    Raises:
        ValueError: more than one mark, or the mark of another image.
    """
    if "<im" not in text:  # most texts
        return text
    check_named_in_text(text, own)
    text = IMAGE_MARK.sub(IMAGE_PLACEHOLDER, text)
    if text.count(IMAGE_PLACEHOLDER) > 1:
        raise ValueError(f"more than one mark {IMAGE_PLACEHOLDER} for one image")
    return text.replace(IMAGE_PLACEHOLDER, "")


def _as_list(texts: Any) -> Any:
    return texts if isinstance(texts, list) else [texts]


def image_name(values: Mapping[str, Any]) -> str:
    """The row's only image, from ``image``, ``images`` (a list of one) or ``file_name``.

    Raises:
        ValueError: none, more than one, different ones, or not a name.
    """
    given = {name: _as_list(values[name]) for name in IMAGE_KEYS if values.get(name) is not None}
    given = {name: found for name, found in given.items() if found} or given  # an empty list beside a name says nothing
    named, found = next(iter(given.items()), (IMAGE_KEYS[0], [None]))
    if len(found) != 1:
        raise ValueError(f"{named} has {len(found)} images, needs one")
    if any(other != found for other in given.values()):
        raise ValueError(f"{' and '.join(given)} name different images")
    if isinstance(found[0], str) and found[0]:
        return found[0]
    needed = "needs the name of an image file; a key of another name is named in columns: {image: NAME}"
    raise ValueError(f"{named} is {str(found[0])[:100]!r}, {needed}; found {', '.join(map(str, values))[:200]}")


def values_of(row: SourceRow, image: str | None) -> dict[str, Any]:
    """Returns values that `rows_of` reads back as the same row, without missing ones.

    Args:
        image: the image's name in the file; None if the image is stored next to the row.
    """
    values = {"id": row.key, "image": image, "messages": row.messages, **facts_of(row)}
    return {name: value for name, value in values.items() if value is not None}


def facts_of(row: SourceRow) -> dict[str, str]:
    """Task, source, split and scene class, as far as known."""
    facts = {"task": row.task, "source": row.source, "split": row.split, "scene_class": row.scene_class}
    return {name: value for name, value in facts.items() if value is not None}


def read_turns(turns: Any, role_key: str, text_key: str) -> tuple[list[Message], bool]:
    """Returns the turns as chat messages, and whether the first one had the placeholder ``<image>``. The placeholder is
    removed: the image always precedes the text.

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
        role, text = text_of(turn, role_key), turn_text(turn, text_key)
        if role not in ROLES or text is None:
            raise ValueError(f"turn {len(messages)} has role {role!r} and {'no ' if text is None else ''}text")
        marks += text.count(IMAGE_PLACEHOLDER)
        has_placeholder = has_placeholder or (not messages and IMAGE_PLACEHOLDER in text)
        messages.append({"role": ROLES[role], "content": text.replace(IMAGE_PLACEHOLDER, "").strip()})
    if marks > 1:
        raise ValueError(f"{marks} marks {IMAGE_PLACEHOLDER} for one image")
    roles = [message["role"] for message in messages]
    dialogue = roles[1:] if roles[0] == "system" else roles
    if roles != ["assistant"] and (not dialogue or dialogue != ["user", "assistant"] * (len(dialogue) // 2)):
        raise ValueError(f"turns do not alternate from user to assistant: {', '.join(roles)}")
    return messages, has_placeholder


def without_caption_prompt(
    messages: list[Message], has_placeholder: bool, prompts: Collection[str]
) -> tuple[list[Message], str | None]:
    """Returns a single answer to ``<image>`` alone or to one of ``prompts`` as a caption, with the prompt, which is
    dropped; other messages unchanged. None for no prompt.

    Args:
        prompts: as `plain_question` returns them.
    """
    if not has_placeholder or [message["role"] for message in messages] != ["user", "assistant"]:
        return messages, None
    question = messages[0]["content"]
    if not question:
        return messages[1:], None
    return (messages[1:], question) if plain_question(question) in prompts else (messages, None)


def turn_text(turn: Any, text_key: str) -> str | None:
    """The text of a turn: a string, or OpenAI's content parts. An image part and Qwen-VL's ``<img>NAME</img>`` become
    the placeholder; see `check_named_images` for their names."""
    parts = turn.get(text_key) if isinstance(turn, dict) else None
    if not isinstance(parts, list):
        text = text_of(turn, text_key)
        return text if text is None else IMAGE_MARK.sub(IMAGE_PLACEHOLDER, text)
    texts = []
    for part in parts:
        kind = text_of(part, "type")
        text = IMAGE_PLACEHOLDER if kind in IMAGE_PARTS else text_of(part, "text")
        if text is None or (kind not in TEXT_PARTS and kind not in IMAGE_PARTS):
            raise ValueError(f"content part {str(part)[:100]} is neither text nor an image")
        texts.append(IMAGE_MARK.sub(IMAGE_PLACEHOLDER, text))
    return "\n".join(texts)


def _task(name: Any, messages: list[Message]) -> str | None:
    """The task of a row that says ``name``; without a name, by its messages; None for an unknown name."""
    if name is None or name == "":
        return "caption" if len(messages) == 1 else "open"
    word = re.sub(r"[\s_-]+", "_", name.strip().lower()) if isinstance(name, str) else ""
    task = _TASK_NAMES.get(word, word)
    return task if task in TASKS else None


def _parsed(turns: Any) -> Any:
    """Turns that are stored as JSON text, as in Parquet files, as a list. Raises RepeatedKeyError."""
    if not isinstance(turns, str):
        return turns
    try:
        return decode(turns)
    except RepeatedKeyError:
        raise
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
