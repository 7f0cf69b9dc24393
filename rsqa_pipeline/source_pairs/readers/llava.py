"""LLaVA / ShareGPT JSON: a list of conversations about one image each.

One real row::

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
      {"from": "human", "value": "<image>\\nWhat are the colors of the bus in the image?"},
      {"from": "gpt", "value": "The bus in the image is white and red."},
      {"from": "human", "value": "What feature can be seen on the back of the bus?"},
      {"from": "gpt", "value": "The back of the bus features an advertisement."}]}

Multi-turn stays multi-turn; the mark ``<image>`` is taken out of the text, since the image stands before it anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, load_json, text_of

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(path: Path, images: Path) -> Iterator[Entry]:
    """One entry a conversation, key its ``id``, source the file's name; the file names no splits.

    Raises:
        DataError: the file cannot be read or is not a list.
    """
    rows = load_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} is not LLaVA JSON: needs a list of rows, found {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield _read_row(row, index, path.stem, images)


def _read_row(row: Any, index: int, source: str, images: Path) -> Entry:
    if not isinstance(row, dict):
        return RowFault(f"[{index}]", "bad_row", f"needs an object, found {type(row).__name__}")
    key = str(row.get("id", f"[{index}]"))
    name = text_of(row, "image")
    if not name:
        return RowFault(key, "no_image", f"image is {row.get('image')!r}")
    reference = str(images / name)
    try:
        messages = _messages(row.get("conversations"))
    except ValueError as error:
        return RowFault(key, "bad_turns", str(error), reference)
    return SourceRow(key, reference, messages, "open", source, None, None)


def _messages(turns: Any) -> list[Message]:
    """Chat messages of the turns.

    Raises:
        ValueError: they are no list, a turn has no text or an unknown role, or they do not run (system,) user,
            assistant, user, ..., assistant.
    """
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"conversations is {str(turns)[:100]}")
    messages: list[Message] = []
    for turn in turns:
        role, text = text_of(turn, "from"), text_of(turn, "value")
        if role not in _ROLES or text is None:
            raise ValueError(f"turn {len(messages)} has role {role!r} and {'no ' if text is None else ''}text")
        messages.append({"role": _ROLES[role], "content": text.replace("<image>", "").strip()})
    roles = [message["role"] for message in messages]
    talk = roles[1:] if roles[0] == "system" else roles
    if not talk or len(talk) % 2 or talk != ["user", "assistant"] * (len(talk) // 2):
        raise ValueError(f"turns do not alternate from user to assistant: {', '.join(roles)}")
    return messages
