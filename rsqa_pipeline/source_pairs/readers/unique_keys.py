"""Decodes JSON in which no object has a key twice: any choice between the two values would be a guess."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any


class RepeatedKeyError(ValueError):
    """An object has the key ``name`` twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the key {name[:100]!r} stands twice in one object")


@dataclass(frozen=True)
class RepeatedKey:
    """Stands for a value of a file in which an object has the key ``name`` twice."""

    name: str

    def __str__(self) -> str:
        return str(RepeatedKeyError(self.name))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise RepeatedKeyError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return values


_UNIQUE = json.JSONDecoder(strict=False, object_pairs_hook=_unique)  # not strict: a text may contain control characters
_ANY = json.JSONDecoder(strict=False)


def decode(text: str) -> Any:
    """The JSON value.

    Raises:
        RepeatedKeyError: an object has a key twice.
        ValueError: not JSON.
        RecursionError: nested too deep.
    """
    return _UNIQUE.decode(text)


def decode_first(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at ``position``, or a `RepeatedKey` in its place, and the position of its end.

    Raises:
        ValueError: not JSON; a ``json.JSONDecodeError`` says where.
        RecursionError: nested too deep.
    """
    try:
        return _UNIQUE.raw_decode(text, position)
    except RepeatedKeyError as error:
        return RepeatedKey(error.name), _ANY.raw_decode(text, position)[1]
