"""Images that the turns of a row name themselves, which have to be the row's own image.

A turn names an image in a content part or in the mark of Qwen-VL's chat form::

    {"type": "image_url", "image_url": {"url": "file:///data/airport_1.jpg"}}
    {"type": "image", "image": "airport_1.jpg"}
    Picture 1: <img>airport_1.jpg</img>\\nHow many planes are there?
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

IMAGE_PARTS = ("image", "image_url", "input_image")
TEXT_PARTS = ("text", "input_text", "output_text", None)
IMAGE_MARK = re.compile(r"(?:Picture \d+:[ \t]*)?<img>(.*?)</img>", re.DOTALL)
_NAME_KEYS = ("image", "image_url", "url", "path", "file", "file_id", "data", "base64", "bytes", "source")


def check_named_images(turns: Any, text_key: str, own: Collection[str]) -> None:
    """Checks the images that content parts and marks name; one without a name is the row's image.

    Args:
        turns: as `json_row.read_turns` takes them.
        own: the names of the row's image: in the row, and as a path.

    Raises:
        ValueError: a name is not among ``own``.
    """
    for turn in turns if isinstance(turns, list) else ():
        for name in _names(turn.get(text_key) if isinstance(turn, dict) else None):
            if _plain(name) not in map(_plain, own):
                raise ValueError(f"it names the image {name[:100]!r}, but the row's image is {min(own, default='')!r}")


def check_named_in_text(text: str, own: Collection[str]) -> None:
    """As `check_named_images`, for one text."""
    check_named_images([{"": text}], "", own)


def _names(content: Any) -> Iterator[str]:
    """The names of images in the content of a turn: a text, or a list of parts."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield from filter(None, IMAGE_MARK.findall(part))
        elif isinstance(part, Mapping):
            if part.get("type") in IMAGE_PARTS:
                yield from _name_of(part)
            elif isinstance(part.get("text"), str):
                yield from filter(None, IMAGE_MARK.findall(part["text"]))


def _name_of(part: Mapping[str, Any]) -> Iterator[str]:
    """The name in an image part; an image that is stored in the part counts as one, too."""
    for key in _NAME_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping):
            yield from _name_of(value)
        elif value is not None and value != "":
            yield value if isinstance(value, str) else str(value)[:100]


def _plain(name: str) -> str:
    """A name without ``file://`` and ``./``, with ``/`` for ``\\``."""
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://"))
    return posixpath.normpath(name.replace("\\", "/"))
