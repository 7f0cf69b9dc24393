"""The record that every importer yields, and functions shared by the importers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.importers.pair_rows import read_rows
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.readers.image_names import found_name
from rsqa_pipeline.source_pairs.readers.json_row import IMAGE_KEYS, ROLES, plain_caption, turn_text
from rsqa_pipeline.source_pairs.readers.named_images import IMAGE_PARTS, check_named_images
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKey
from rsqa_pipeline.source_pairs.source_row import RowFault, text_of


@dataclass(frozen=True)
class ImportedPair:
    """One pair as in the file. Texts and image are not checked yet."""

    key: str
    """File and row, e.g. ``train.parquet[17]``, for messages."""
    context: tuple[Message, ...]
    chosen: str
    rejected: str
    image: bytes | str | None = None
    """Bytes of an image file, a reference (see `rsqa_pipeline.images.decode`), or None."""
    family: str | None = None
    """The family name in the file; None if it has none."""


@dataclass(frozen=True)
class ImportFault:
    """A row, or one of its pairs, that cannot be read. It is quarantined and counted."""

    key: str
    reason: str
    """``bad_row | truncated_file | bad_turns | bad_image | no_text | equal_scores | wrong_order | several_images``."""
    detail: str


Entry = ImportedPair | ImportFault


class BadRow(Exception):
    """Why a row cannot be read; becomes an `ImportFault`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def pairs_in(
    file: PairFile, pairs_of: Callable[[str, dict[str, Any], Path], Iterable[ImportedPair]]
) -> Iterator[Entry]:
    """Yields what ``pairs_of`` makes of key, row and image folder, for each row of the file; a row for which it raises
    BadRow, or that cannot be decoded, is a fault.

    Raises:
        DataError: see `read_rows`.
    """
    folder = image_folder(file)
    for key, row in islice(read_rows(Path(file.path)), file.limit):
        try:
            if isinstance(row, RowFault):
                raise BadRow(row.reason, row.detail)
            if not isinstance(row, dict):
                found = str(row) if isinstance(row, RepeatedKey) else f"needs an object, found {_describe(row)}"
                raise BadRow("bad_row", found)
            yield from pairs_of(key, row, folder)
        except BadRow as bad:
            yield ImportFault(key, bad.reason, bad.detail)


def text_in(row: Mapping[str, Any], name: str) -> str:
    """The string in a column. Raises BadRow if it is not a string."""
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRow("no_text", f"{name} is {_describe(value)}, needs a string")
    return value


def image_of(row: Mapping[str, Any], folder: Path) -> bytes | str | None:
    """The row's image, from the keys that the readers of sources know: a name in ``folder``, bytes,
    ``{"bytes": .., "path": ..}`` as on the hub, or a list of one of these. A name may be written otherwise than on the
    disk (see `found_name`).

    Raises:
        BadRow: the value is anything else, several images, two keys with different images, or a name outside the
            folder; a link may lead out of it as well.
    """
    given = {name: _single(row[name]) for name in IMAGE_KEYS if row.get(name) is not None}
    given = {name: value for name, value in given.items() if value is not None}
    value = next(iter(given.values()), None)
    names = {name for name in map(_name_in, given.values()) if name is not None}
    if len(names) > 1:
        raise BadRow("bad_image", f"{' and '.join(given)} name different images")
    if isinstance(value, Mapping):
        if not value.keys() & {"bytes", "path"}:
            raise BadRow("bad_image", f"image is {_describe(value)}, needs bytes or path")
        value = value.get("bytes") or value.get("path")
    return value if value is None or isinstance(value, bytes) else _named_image(value, folder)


def _single(value: Any) -> Any:
    """The only element of a list; other values as they are."""
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise BadRow("several_images", f"{len(value)} images, a pair here has one")
    return value[0] if value else None


def _name_in(value: Any) -> str | None:
    name = value.get("path") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def _named_image(value: Any, folder: Path) -> str:
    """The reference of the image with this name."""
    if not isinstance(value, str) or not value:
        raise BadRow("bad_image", f"image is {_describe(value)}, needs a name or bytes")
    try:
        value = found_name(str(folder / value), folder).removeprefix(f"{folder}/")
        inside = (folder / value).resolve().is_relative_to(folder.resolve())
    except ValueError as error:  # a null character or a lone surrogate
        raise BadRow("bad_image", f"image name {value[:200]!r} is not a file name: {error}") from error
    if Path(value).is_absolute() or ".." in Path(value).parts or not inside:
        raise BadRow("bad_image", f"image name {value[:200]!r} leads out of {folder}")
    return str(folder / value)


def image_folder(file: PairFile) -> Path:
    """The folder that contains the named images."""
    path = Path(file.path)
    return Path(file.images) if file.images else path if path.is_dir() else path.parent


def image_names(row: Mapping[str, Any], image: bytes | str | None) -> list[str]:
    """The names by which the row's texts may name its image: as in the row, and the reference."""
    given = [_name_in(_single(row[name])) for name in IMAGE_KEYS if row.get(name) is not None]
    return [name for name in (*given, image) if isinstance(name, str)]


def conversation_pair(row: Mapping[str, Any], image: bytes | str | None = None) -> tuple[tuple[Message, ...], str, str]:
    """Context and the two last answers, from the texts or messages ``prompt``, ``chosen`` and ``rejected``. The prompt
    may be separate, in both lists, or absent.

    Example: ``"How many?", [user "How many?", assistant "3"], [user "How many?", assistant "5"]`` gives
    ``(user "How many?",), "3", "5"``.

    Args:
        image: the row's image. Its marks are removed from the texts; without an image texts stay as they are.

    Raises:
        BadRow: a text is missing, a turn is malformed, the two lists differ before their last turn, the turns do not
            alternate, or one names another image.
    """
    own = None if image is None else image_names(row, image)
    asked = () if row.get("prompt") is None else _messages(row["prompt"], "user", own)
    good, bad = (_messages(row.get(name), "assistant", own) for name in ("chosen", "rejected"))
    if not good or not bad or good[-1]["role"] != "assistant" or bad[-1]["role"] != "assistant":
        raise BadRow("bad_turns", "chosen and rejected must each end with a turn of the assistant")
    if good[:-1] != bad[:-1]:
        raise BadRow("bad_turns", "chosen and rejected differ before their last turn")
    before = good[:-1]
    repeats = asked in (before[: len(asked)], before[len(before) - len(asked) :])
    context = before if repeats else asked + before
    roles = [turn["role"] for turn in context]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if dialogue != (["user", "assistant"] * len(dialogue))[: len(dialogue)] or len(dialogue) % 2 != bool(roles):
        raise BadRow("bad_turns", f"turns before the answer do not alternate from user to user: {', '.join(roles)}")
    return context, good[-1]["content"], bad[-1]["content"]


def text_about(text: str, own: Sequence[str] | None) -> str:
    """The text without the mark of the image with the names ``own``; the same text if there is no image.

    Raises:
        BadRow: the text has two marks, or that of another image.
    """
    if own is None:
        return text
    try:
        plain = plain_caption(text, own)
    except ValueError as error:
        raise BadRow("bad_turns", str(error)) from error
    return text if plain == text else plain.strip()


def _messages(value: Any, role: str, own: Sequence[str] | None) -> tuple[Message, ...]:
    """Messages from a text (one turn of ``role``) or from a list of turns."""
    if isinstance(value, str):
        return (Message(role=role, content=text_about(value, own)),)
    if not isinstance(value, list):
        raise BadRow("no_text", f"needs a text or a list of turns, found {_describe(value)}")
    return tuple(_message(turn, own) for turn in value)


def _message(turn: Any, own: Sequence[str] | None) -> Message:
    """A turn with ``role`` and ``content``, or LLaVA's ``from`` and ``value``, without the mark of the image."""
    role, text_key = text_of(turn, "role"), "content"
    if role is None:
        role, text_key = text_of(turn, "from"), "value"
    content = turn.get(text_key) if isinstance(turn, dict) else None
    try:
        if own is None and isinstance(content, list) and any(text_of(p, "type") in IMAGE_PARTS for p in content):
            raise ValueError("a turn has an image part, but the row has no image")
        check_named_images([turn], text_key, own or ())
        text = content if isinstance(content, str) else turn_text(turn, text_key)
    except ValueError as error:
        raise BadRow("bad_turns", str(error)) from error
    if role not in ROLES or text is None:
        raise BadRow("bad_turns", f"a turn is {_describe(turn)}")
    return Message(role=ROLES[role], content=text_about(text, own))


def _describe(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:120]
