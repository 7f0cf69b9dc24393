"""Reads a JSON file record by record in bounded memory, with the byte range of each record.

To find records, the file is decoded as Latin-1, so that one character is one byte and offsets are file offsets. JSON's
punctuation is ASCII, and no byte of a multi-byte UTF-8 character is. A record that is not ASCII is then decoded as
UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.unique_keys import decode_first
from rsqa_pipeline.source_pairs.readers.wide_text import conversion, wide_encoding
from rsqa_pipeline.source_pairs.source_row import RowFault

CHUNK_BYTES = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_PARTIAL_NUMBER = re.compile(r"(?:[.eE][+-]?)?")
_MAX_ESCAPE_LENGTH = 12
_BYTE_ORDER_MARK = "\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One element of an array of the file.

    Example: ``Record("images", 0, 12, b'{"filename": "airport_1.jpg"}', {"filename": "airport_1.jpg"})``
    """

    array: str
    """Key of the array; empty if the file is one array."""
    index: int
    start: int
    """Offset in the file, in bytes."""
    raw: bytes
    """Exactly the file's bytes, without the whitespace around them."""
    value: Any
    """A `RepeatedKey` in place of a value in which an object has a key twice."""

    @property
    def end(self) -> int:
        return self.start + len(self.raw)


class _UnexpectedEnd(Exception):
    """The file ends within a value or an array."""


def records(path: Path, arrays: Sequence[str] | None, layout: str) -> Iterator[Record | RowFault]:
    """Yields the elements of the named top-level arrays, in file order. With no names, the file itself is one array;
    with None, the file is an object and every array in it counts.

    A truncated file gives its complete records and then one fault ``truncated_file``. Bytes that are not UTF-8 become
    lone surrogates. Memory: the longest record, or the longest value of another key that is not an array.

    Args:
        layout: the format's name, for error messages.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks an array.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    with file:
        try:
            if encoding := wide_encoding(file.peek(4)[:4]):
                raise DataError(f"{path} cannot be read: {conversion(path, encoding)}")
            window = _Window(file)
            found = yield from _top_level_records(window, arrays)
        except _UnexpectedEnd:
            detail = f"{path} ends at byte {window.end} before it is complete; the records before that were read"
            yield RowFault(f"byte {window.end}", "truncated_file", detail)
            return
        except (ValueError, RecursionError) as error:
            where = f"at byte {window.offset}: {error}"
            raise DataError(f"{path} is not valid JSON {where}; is it complete, and in UTF-8?") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    if isinstance(found, str) or not set(arrays or ()) <= found:
        needed = "a list of rows" if arrays == () else "an object of lists"
        if arrays:
            needed = f"a list {next(name for name in arrays if name not in found)!r}"
        has = found if isinstance(found, str) else sorted(found)
        raise DataError(f"{path} is not {layout}: needs {needed}, found {has}{_suggestion(found)}")


def _suggestion(found: set[str] | str) -> str:
    """The setting that reads a file of this shape, as far as it is known."""
    if found == "list":
        return "; a list of rows is read with format: llava"
    if found == "dict":
        return "; an object is read with format: karpathy, coco or nwpu_captions"
    if isinstance(found, str) or not found:
        return ""
    if {"images", "annotations"} <= found:
        return "; this is read with format: coco"
    if "images" in found:
        return "; this is read with format: karpathy"
    return "; lists of images per class are read with format: nwpu_captions, one object a line with format: jsonl"


class _Window:
    """The part of the file in memory; one character is one byte."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._base = 0
        self._ended = False
        self.text = ""
        self.position = 0
        self._read_more()
        if self.text.startswith(_BYTE_ORDER_MARK):
            self.position = len(_BYTE_ORDER_MARK)

    @property
    def offset(self) -> int:
        """Offset of the next character in the file, in bytes."""
        return self._base + self.position

    @property
    def end(self) -> int:
        """Offset of the end of what has been read, in bytes."""
        return self._base + len(self.text)

    def peek(self) -> str:
        """Returns the next character that is not whitespace."""
        while True:
            space = _SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read_more():
                raise _UnexpectedEnd

    def is_at_end(self) -> bool:
        """Whether only whitespace is left."""
        try:
            self.peek()
        except _UnexpectedEnd:
            return True
        return False

    def skip(self, expected: str) -> None:
        if self.peek() != expected:
            raise ValueError(f"expecting {expected!r}, found {self.text[self.position]!r}")
        self.position += 1

    def value(self) -> tuple[Any, str]:
        """Returns the next value and its characters."""
        self.peek()
        while True:
            decoded = None
            try:
                decoded = decode_first(self.text, self.position)
            except json.JSONDecodeError as error:
                if not _may_be_incomplete(error, self.text):
                    raise
            # A number at the end of the window may have more digits in the file.
            if decoded is not None and (self._ended or len(self.text) - decoded[1] > 2):
                break
            if not self._read_more() and decoded is None:
                raise _UnexpectedEnd
        value, end = decoded
        if _PARTIAL_NUMBER.fullmatch(self.text, end) and not isinstance(value, dict | list | str):
            raise _UnexpectedEnd
        characters = self.text[self.position : end]
        self.position = end
        return value, characters

    def _read_more(self) -> bool:
        """Drops what was consumed and reads at least as much as is still in memory, so that time is linear in the
        file."""
        unread = self.text[self.position :]
        data = self._file.read(max(CHUNK_BYTES, len(unread)))
        self._base += self.position
        self.position = 0
        self.text = unread + data.decode("latin-1")
        self._ended = not data
        return not self._ended


def _may_be_incomplete(error: json.JSONDecodeError, text: str) -> bool:
    """Whether more of the file may complete the value."""
    rest = text[error.pos :]
    return (
        error.msg.startswith("Unterminated string")
        or any(literal.startswith(rest) for literal in _LITERALS)
        or _PARTIAL_NUMBER.fullmatch(rest) is not None
        or ("escape" in error.msg and len(rest) <= _MAX_ESCAPE_LENGTH)
    )


def _top_level_records(window: _Window, arrays: Sequence[str] | None) -> Generator[Record, None, set[str] | str]:
    """Yields the records; returns the keys of the top-level object, or the file's type if it has another layout."""
    if window.is_at_end():
        raise ValueError("the file is empty")
    opening = window.peek()
    found: set[str] | str
    if opening == "[" and arrays == ():
        yield from _array_records(window, "")
        found = {""}
    elif opening == "{" and arrays != ():
        found = yield from _object_records(window, arrays)
    elif opening == "{":
        return "dict"
    else:
        return "list" if opening == "[" else type(window.value()[0]).__name__
    if not window.is_at_end():
        raise ValueError(f"something follows the JSON: {window.text[window.position : window.position + 20]!r}")
    return found


def _object_records(window: _Window, arrays: Sequence[str] | None) -> Generator[Record, None, set[str]]:
    """Yields the records of an object; returns its keys, except those in ``arrays`` whose value is not an array."""
    window.skip("{")
    found: set[str] = set()
    while window.peek() != "}":
        if found:
            window.skip(",")
        if window.peek() != '"':
            raise ValueError(f"expecting a key, found {window.peek()!r}")
        name, _ = window.value()
        window.skip(":")
        if name in found and (arrays is None or name in arrays):
            raise ValueError(f"the list {name!r} stands twice")
        if window.peek() == "[":
            array_records = _array_records(window, name)
            if arrays is None or name in arrays:
                yield from array_records
            else:
                for _ in array_records:  # skipped one by one: the array may be as long as the corpus
                    pass
        elif arrays is not None and name in arrays:
            name = f"{name} (not a list)"
            window.value()
        else:
            window.value()
        found.add(name)
    window.skip("}")
    return found


def _array_records(window: _Window, array: str) -> Iterator[Record]:
    window.skip("[")
    index = 0
    while window.peek() != "]":
        if index:
            window.skip(",")
            window.peek()
        start = window.offset
        value, characters = window.value()
        raw = characters.encode("latin-1")
        if not characters.isascii():
            value, _ = decode_first(raw.decode("utf-8", "surrogateescape"), 0)
        yield Record(array, index, start, raw, value)
        index += 1
    window.skip("]")
