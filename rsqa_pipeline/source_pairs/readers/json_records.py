"""Walks a JSON file record by record in bounded memory, and tells where each record's bytes lie.

The file is decoded as Latin-1 for finding records, so that a character is a byte and offsets are the file's own: JSON's
marks are ASCII, and no byte of a longer UTF-8 character is. A record with other than ASCII is then decoded as UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.source_row import RowFault

CHUNK_BYTES = 1 << 20
_DECODER = json.JSONDecoder(strict=False)  # not strict: a text may hold control characters
_SPACE = re.compile(r"[ \t\n\r]*")
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_CUT_NUMBER = re.compile(r"(?:[.eE][+-]?)?")
_LONGEST_ESCAPE = 12
_BYTE_ORDER_MARK = "\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One element of an array of the file.

    Example: ``Record("images", 0, 12, b'{"filename": "airport_1.jpg"}', {"filename": "airport_1.jpg"})``
    """

    array: str
    """Key of the array; empty where the file is one array."""
    index: int
    start: int
    """Offset in the file, bytes."""
    raw: bytes
    """Exactly the file's bytes, without the space around them."""
    value: Any

    @property
    def end(self) -> int:
        return self.start + len(self.raw)


class _EndsEarly(Exception):
    """The file ends within a value or an array."""


def records(path: Path, arrays: Sequence[str], layout: str) -> Iterator[Record | RowFault]:
    """The elements of the file's top-level arrays named, in the file's order; with none named the file is one array.

    A file that ends too early gives its whole records and then one fault ``truncated_file``. Bytes that are not UTF-8
    become lone surrogates. Memory: the longest record, or the longest value of another key that is no array.

    Args:
        layout: the format's name, put into errors.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks an array.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    with file:
        try:
            window = _Window(file)
            found = yield from _walk(window, arrays)
        except _EndsEarly:
            detail = f"{path} ends at byte {window.end} before it is complete; the records before that were read"
            yield RowFault(f"byte {window.end}", "truncated_file", detail)
            return
        except (ValueError, RecursionError) as error:
            where = f"at byte {window.offset}: {error}"
            raise DataError(f"{path} is not valid JSON {where}; is it complete, and in UTF-8?") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    if isinstance(found, str) or not set(arrays) <= found:
        needed = f"a list {next(name for name in arrays if name not in found)!r}" if arrays else "a list of rows"
        has = found if isinstance(found, str) else sorted(found)
        raise DataError(f"{path} is not {layout}: needs {needed}, found {has}")


class _Window:
    """The part of the file that is looked at: one character is one byte."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._base = 0
        self._ended = False
        self.text = ""
        self.at = 0
        self._more()
        if self.text.startswith(_BYTE_ORDER_MARK):
            self.at = len(_BYTE_ORDER_MARK)

    @property
    def offset(self) -> int:
        """Of the next character in the file, bytes."""
        return self._base + self.at

    @property
    def end(self) -> int:
        """Of what was read so far."""
        return self._base + len(self.text)

    def peek(self) -> str:
        """The next character that is no space."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                raise _EndsEarly

    def at_end(self) -> bool:
        """Whether nothing but space is left."""
        try:
            self.peek()
        except _EndsEarly:
            return True
        return False

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise ValueError(f"expecting {mark!r}, found {self.text[self.at]!r}")
        self.at += 1

    def value(self) -> tuple[Any, str]:
        """The next value and its characters."""
        self.peek()
        while True:
            whole = None
            try:
                whole = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not _may_go_on(error, self.text):
                    raise
            # A number at the window's end may have further digits in the file.
            if whole is not None and (self._ended or len(self.text) - whole[1] > 2):
                break
            if not self._more() and whole is None:
                raise _EndsEarly
        value, end = whole
        if _CUT_NUMBER.fullmatch(self.text, end) and not isinstance(value, dict | list | str):
            raise _EndsEarly
        characters = self.text[self.at : end]
        self.at = end
        return value, characters

    def _more(self) -> bool:
        """Drops what was walked over and reads on, at least as much as is still looked at, so that time is linear."""
        ahead = self.text[self.at :]
        data = self._file.read(max(CHUNK_BYTES, len(ahead)))
        self._base += self.at
        self.at = 0
        self.text = ahead + data.decode("latin-1")
        self._ended = not data
        return not self._ended


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Whether more of the file may make the value whole."""
    rest = text[error.pos :]
    return (
        error.msg.startswith("Unterminated string")
        or any(literal.startswith(rest) for literal in _LITERALS)
        or _CUT_NUMBER.fullmatch(rest) is not None
        or ("escape" in error.msg and len(rest) <= _LONGEST_ESCAPE)
    )


def _walk(window: _Window, arrays: Sequence[str]) -> Generator[Record, None, set[str] | str]:
    """Yields the records; returns the keys of the file's top level, or its type where it is of another layout."""
    if window.at_end():
        raise ValueError("the file is empty")
    opening = window.peek()
    found: set[str] | str
    if opening == "[" and not arrays:
        yield from _elements(window, "")
        found = {""}
    elif opening == "{" and arrays:
        found = yield from _members(window, arrays)
    else:
        return {"[": "list", "{": "dict"}.get(opening) or type(window.value()[0]).__name__
    if not window.at_end():
        raise ValueError(f"something follows the JSON: {window.text[window.at : window.at + 20]!r}")
    return found


def _members(window: _Window, arrays: Sequence[str]) -> Generator[Record, None, set[str]]:
    """Walks over an object; returns its keys, less those in ``arrays`` that hold no array."""
    window.take("{")
    found: set[str] = set()
    while window.peek() != "}":
        if found:
            window.take(",")
        if window.peek() != '"':
            raise ValueError(f"expecting a key, found {window.peek()!r}")
        name, _ = window.value()
        window.take(":")
        if window.peek() == "[":
            elements = _elements(window, name)
            if name in arrays:
                yield from elements
            else:
                for _ in elements:  # walked over one by one: it may be as long as the corpus
                    pass
        elif name in arrays:
            name = f"{name} (no list)"
            window.value()
        else:
            window.value()
        found.add(name)
    window.take("}")
    return found


def _elements(window: _Window, array: str) -> Iterator[Record]:
    window.take("[")
    index = 0
    while window.peek() != "]":
        if index:
            window.take(",")
            window.peek()
        start = window.offset
        value, characters = window.value()
        raw = characters.encode("latin-1")
        if not characters.isascii():
            value = _DECODER.decode(raw.decode("utf-8", "surrogateescape"))
        yield Record(array, index, start, raw, value)
        index += 1
    window.take("]")
