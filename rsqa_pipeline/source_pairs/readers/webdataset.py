"""WebDataset: an uncompressed tar, or a folder of them, whose neighbouring members of one name make a sample.

One real row, two members of ``shard-000000.tar``::

    000000017.jpg    the image
    000000017.txt    many planes are parked next to a long building in an airport .

In place of ``.txt`` there may be ``.json`` with an object as in `json_row`; where there are both, the text is the
caption and the object adds what else it knows (``id``, ``split``, ``source``, ``scene_class``).
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import row_of
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "tif", "tiff", "webp", "bmp", "gif", "jp2", "ppm")
_TEXT_ENDINGS = ("txt", "json")
_BLOCK = tarfile.BLOCKSIZE
_TYPE = 156  # where a header says what it is the header of
_READ_BYTES = 1 << 20


@dataclass
class TarSample:
    """The members of one sample, by their endings.

    Example: ``TarSample("000000017", {"jpg": <TarInfo '000000017.jpg'>, "txt": <TarInfo '000000017.txt'>})``
    """

    key: str
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return any(name in self.members for name in IMAGE_ENDINGS) and any(
            name in self.members for name in _TEXT_ENDINGS
        )


def read(path: Path, images: Path) -> Iterator[Entry]:
    """One entry a sample, its image as a reference into the tar; key the row's ``id``, or the members' name with, in a
    folder of shards, the shard's before it; source is the name of ``path`` unless given.

    A damaged member is one fault ``bad_member``, and the tar goes on behind it. A tar that ends too early gives its
    whole samples and one fault ``truncated_file``.

    Raises:
        DataError: there is no such file or folder, or no tar in it.
    """
    for shard in shards(path):
        prefix = prefix_of(shard, path)
        with _open(shard) as file:
            for sample in samples(shard, file, prefix):
                yield sample if isinstance(sample, RowFault) else read_sample(sample, file, shard, prefix, path.stem)


def shards(path: Path) -> list[Path]:
    """The tar files of ``path``, in the order of their names.

    Raises:
        DataError: there is none.
    """
    found = sorted(path.rglob("*.tar")) if path.is_dir() else [path]
    if not found or not all(shard.is_file() for shard in found):
        raise DataError(f"{path} is no tar file and no folder with .tar files in it")
    return found


def prefix_of(shard: Path, path: Path) -> str:
    """What stands before the keys of a shard of the folder ``path``; nothing where it is the only one."""
    return f"{shard.relative_to(path).as_posix()}/" if path.is_dir() else ""


def stored(member: tarfile.TarInfo, file: BinaryIO) -> bytes:
    """A member as it stands in the tar, header and filling included."""
    file.seek(member.offset)
    return file.read(-(-(member.offset_data + member.size) // _BLOCK) * _BLOCK - member.offset)


def samples(shard: Path, file: BinaryIO, prefix: str) -> Iterator[TarSample | RowFault]:
    """Groups neighbouring members by their name up to the first dot of its last part."""
    sample: TarSample | None = None
    for member in _members(shard, file, prefix):
        if isinstance(member, RowFault):
            if member.reason == "truncated_file" and sample is not None:
                if sample.is_whole:  # one that is not was cut: the fault is its own
                    yield sample
                sample = None
            yield member
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key = f"{prefix}{folder}/{stem}" if folder else f"{prefix}{stem}"
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = TarSample(key)
        sample.members[ending.lower()] = member
    if sample is not None:
        yield sample


def read_sample(sample: TarSample, file: BinaryIO, shard: Path, prefix: str, source: str) -> Entry:
    """The entry of one sample."""
    values = {}
    if "json" in sample.members:
        try:
            values = json.loads(_content(sample.members["json"], file), strict=False)
        except (ValueError, RecursionError) as error:
            return RowFault(sample.key, "bad_row", f"{sample.members['json'].name} is not valid JSON: {error}")
        if not isinstance(values, dict):
            return RowFault(sample.key, "bad_row", f"needs an object, found {type(values).__name__}")
    if "txt" in sample.members:
        facts = {name: values.get(name) for name in ("id", "split", "source", "scene_class")}
        values = {**facts, "text": _content(sample.members["txt"], file)}
    key = sample.key if values.get("id") is None else str(values["id"])
    pictures = [ending for ending in sample.members if ending in IMAGE_ENDINGS]
    if len(pictures) != 1:
        reason = "bad_row" if pictures else "no_image"
        return RowFault(key, reason, f"needs one image, found members {', '.join(sample.members)}")
    image = sample.members[pictures[0]]
    reference = f"{shard}#{image.offset_data}+{image.size}"
    if not set(_TEXT_ENDINGS) & set(sample.members):
        return RowFault(key, "not_text", f"needs .txt or .json, found members {', '.join(sample.members)}", reference)
    return row_of(values, key, reference, source)


def _open(shard: Path) -> BinaryIO:
    try:
        return shard.open("rb")
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error}") from error


def _content(member: tarfile.TarInfo, file: BinaryIO) -> str:
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8-sig", "surrogateescape")


def _members(shard: Path, file: BinaryIO, prefix: str) -> Iterator[tarfile.TarInfo | RowFault]:
    """The members that are files, and a fault for whatever stands between them and is neither header nor zeros."""
    size = os.fstat(file.fileno()).st_size
    reached = 0
    tar = _opened_tar(file, size)
    while tar is not None:
        try:
            member = tar.next()
        except (tarfile.TarError, ValueError):  # a header of more than one block is damaged: told by the gap it leaves
            tar.offset += _BLOCK
            if tar.offset >= size:
                break
            continue
        if member is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header of the shard
        if member.size < 0:  # a header made to send readers in a circle
            tar.offset = member.offset + _BLOCK
            continue
        if _is_damaged(file, reached, member.offset):
            yield RowFault(f"{prefix}byte {reached}", "bad_member", f"{shard}: no tar header at byte {reached}")
        end = member.offset_data + (member.size if member.isreg() else 0)
        reached = -(-end // _BLOCK) * _BLOCK
        if end > size:
            break
        if member.issparse() or not (member.isreg() or member.isdir()):
            yield RowFault(f"{prefix}{member.name}", "bad_member", f"{shard}: {member.name} is no plain file")
        elif member.isreg():
            yield member
    yield from _fault_at_end(shard, file, prefix, reached, size)


def _fault_at_end(shard: Path, file: BinaryIO, prefix: str, reached: int, size: int) -> Iterator[RowFault]:
    """What is wrong with a tar behind its last member, which ends at byte ``reached``."""
    where = f"{prefix}byte {min(reached, size)}"
    if reached == 0 and (size == 0 or _is_damaged(file, 0, size)):
        yield RowFault(where, "bad_member", f"{shard} is no tar: needs an uncompressed one")
    elif _is_damaged(file, max(size - _BLOCK, 0), size) or reached >= size:
        yield RowFault(where, "truncated_file", f"{shard} ends after {size} bytes, without a tar's end")
    elif _is_damaged(file, reached, size):
        yield RowFault(where, "bad_member", f"{shard}: no tar header at byte {reached}")


def _is_damaged(file: BinaryIO, start: int, end: int) -> bool:
    """Whether anything but zeros, or a header for all members, stands in these bytes, where no member is."""
    file.seek(start)
    block = file.read(min(_BLOCK, end - start))
    if block[_TYPE : _TYPE + 1] == tarfile.XGLTYPE:
        return False
    while block:
        if block.strip(b"\0"):
            return True
        block = file.read(min(_READ_BYTES, end - file.tell()))
    return False


def _opened_tar(file: BinaryIO, size: int) -> tarfile.TarFile | None:
    """The tar from its first sound header on; None where there is none."""
    for start in range(0, size, _BLOCK):
        file.seek(start)
        try:
            # ignore_zeros: without it tarfile takes the first damaged header for the archive's end, without a word.
            return tarfile.TarFile(fileobj=file, ignore_zeros=True)
        except (tarfile.TarError, ValueError):
            continue
    return None
