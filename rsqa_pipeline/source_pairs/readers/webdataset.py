"""WebDataset: an uncompressed tar, or a folder of tars. Adjacent members with the same name form a sample.

One real row, two members of ``shard-000000.tar``::

    000000017.jpg    the image
    000000017.txt    many planes are parked next to a long building in an airport .

Instead of ``.txt`` there may be ``.json`` with an object as in `json_row`. If both are present, the text is the caption
and the object adds ``id``, ``split``, ``source``, ``scene_class`` and ``task``; it may repeat the text.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.json_row import CAPTION_KEYS, rows_of
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import decode
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, is_missing, key_or, split_of_path

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "tif", "tiff", "webp", "bmp", "gif", "jp2", "ppm")
_TEXT_ENDINGS = ("txt", "json")
_BLOCK = tarfile.BLOCKSIZE
_TYPE_OFFSET = 156  # offset of the type flag in a header
_READ_BYTES = 1 << 20


@dataclass
class TarSample:
    """The members of one sample with their endings, in the tar's order.

    Example: ``TarSample("000000017", [("jpg", <TarInfo '000000017.jpg'>), ("txt", <TarInfo '000000017.txt'>)])``
    """

    key: str
    members: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)

    def having(self, *endings: str) -> list[tarfile.TarInfo]:
        """The members with one of the ``endings``."""
        return [member for ending, member in self.members if ending in endings]

    @property
    def is_complete(self) -> bool:
        return bool(self.having(*IMAGE_ENDINGS) and self.having(*_TEXT_ENDINGS))

    def ends_before(self, ending: str) -> bool:
        """Whether the next member of the same key, with this ending, starts another sample.

        It does if this sample is complete and the ending repeats that of its image or of its first member. Further
        texts after an image are further captions of it.
        """
        repeated = any(ending == name for name, _ in self.members)
        return self.is_complete and repeated and (ending in IMAGE_ENDINGS or ending == self.members[0][0])

    def members_of(self, kept: list[bool]) -> list[tarfile.TarInfo]:
        """The members to copy if of the rows of `read_sample` those with True are kept: all but the others' texts."""
        if not any(kept):
            return []
        texts = self.having("txt") or self.having("json")
        if len(texts) == 1:  # with one caption, or a list of which some are kept
            return [member for _, member in self.members]
        dropped = [text for text, keep in zip(texts, kept, strict=True) if not keep]
        return [member for _, member in self.members if member not in dropped]

    @property
    def found(self) -> str:
        return f"found members {', '.join(ending for ending, _ in self.members)}"


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per text of a sample, with a reference into the tar as its image.

    The key is the row's ``id``, or the name of the members; in a folder of shards, the shard's name precedes it.
    Default source: the name of ``path``. A damaged member gives one fault ``bad_member``, and reading continues after
    it. A truncated tar gives its complete samples and one fault ``truncated_file``.

    Raises:
        DataError: no such file or folder, or no tar in it.
    """
    for shard in shards(path):
        prefix = prefix_of(shard, path)
        with _open_file(shard) as file:
            for sample in samples(shard, file, prefix):
                if isinstance(sample, RowFault):
                    yield sample
                else:
                    yield from read_sample(sample, file, shard, prefix, path.stem, options)


def shards(path: Path) -> list[Path]:
    """Returns the tar files of ``path``, sorted by name.

    Raises:
        DataError: there is none.
    """
    # a compressed shard is reported, not left out
    named = (file for ending in ("tar", "tar.gz", "tgz") for file in path.rglob(f"*.{ending}"))
    found = sorted(named) if path.is_dir() else [path]
    if not found or not all(shard.is_file() for shard in found):
        raise DataError(f"{path} is not a tar file, and not a folder with .tar files in it")
    return found


def prefix_of(shard: Path, path: Path) -> str:
    """Key prefix of a shard of the folder ``path``; empty if it is the only shard."""
    return f"{shard.relative_to(path).as_posix()}/" if path.is_dir() else ""


def raw_member(member: tarfile.TarInfo, file: BinaryIO) -> bytes:
    """The bytes of a member in the tar, including header and padding."""
    file.seek(member.offset)
    return file.read(-(-(member.offset_data + member.size) // _BLOCK) * _BLOCK - member.offset)


def samples(shard: Path, file: BinaryIO, prefix: str) -> Iterator[TarSample | RowFault]:
    """Groups adjacent members by key, the path without the ending (see `_split_name`)."""
    sample: TarSample | None = None
    for member in _members(shard, file, prefix):
        if isinstance(member, RowFault):
            if member.reason == "truncated_file" and sample is not None:
                if sample.is_complete:  # an incomplete sample is the one cut off: the fault covers it
                    yield sample
                sample = None
            yield member
            continue
        folder, _, name = member.name.rpartition("/")
        stem, ending = _split_name(name)
        key = f"{prefix}{folder}/{stem}" if folder else f"{prefix}{stem}"
        if sample is None or sample.key != key or sample.ends_before(ending):
            if sample is not None:
                yield sample
            sample = TarSample(key)
        sample.members.append((ending, member))
    if sample is not None:
        yield sample


def read_sample(
    sample: TarSample,
    file: BinaryIO,
    shard: Path,
    prefix: str,
    source: str,
    options: ReaderOptions = DEFAULT_OPTIONS,
) -> Iterator[Entry]:
    """Yields one entry per text of the sample, or one fault for all of its members."""
    pictures, texts, objects = sample.having(*IMAGE_ENDINGS), sample.having("txt"), sample.having("json")
    rows: list[dict[str, Any]] = []
    for member in objects:
        try:
            values = decode(_content(member, file))
        except (ValueError, RecursionError) as error:
            yield RowFault(sample.key, "bad_row", f"{member.name} cannot be read as JSON: {error}")
            return
        if not isinstance(values, dict):
            yield RowFault(sample.key, "bad_row", f"needs an object, found {type(values).__name__}")
            return
        rows.append(dict(options.renamed(values)))
    if texts and len(objects) > 1:
        yield RowFault(sample.key, "bad_row", f"needs at most one .json beside .txt, {sample.found}")
        return
    if texts:
        written = [_content(member, file) for member in texts]
        other = _other_texts(rows[0], written) if rows else None
        if other is not None:
            yield RowFault(sample.key, "bad_row", f"{other} of the .json holds other texts than the .txt")
            return
        facts = {name: rows[0].get(name) for name in ("id", "split", "source", "scene_class", "task")} if rows else {}
        rows = [{**facts, "text": text} for text in written]
    key = key_or(rows[0].get("id"), sample.key) if rows else sample.key
    if len(pictures) != 1:
        yield RowFault(key, "bad_row" if pictures else "no_image", f"needs one image, {sample.found}")
        return
    reference = f"{shard}#{pictures[0].offset_data}+{pictures[0].size}"
    if not rows:
        yield RowFault(key, "not_text", f"needs .txt or .json, {sample.found}", reference)
    split = split_of_path(PurePath(sample.key.removeprefix(prefix)).parent / "member")
    split = split or split_of_path(PurePath(prefix or shard.name))
    for position, values in enumerate(rows):
        row_key = key_or(values.get("id"), sample.key)
        values = {**values, "split": split if is_missing(values.get("split")) else values["split"]}
        row_key = f"{row_key}/{position}" if len(rows) > 1 else row_key
        yield from rows_of(values, row_key, reference, source, options, PurePath(pictures[0].name).name)


def _other_texts(values: Mapping[str, Any], written: Sequence[str]) -> str | None:
    """The key of ``values`` with other captions than the members ``.txt`` of the sample; None if there is none. As in
    img2dataset, the object may repeat the caption."""
    for name in CAPTION_KEYS:
        found = values.get(name)
        texts = found if isinstance(found, list) else [found]
        if any(not is_missing(text) and str(text).strip() not in map(str.strip, written) for text in texts):
            return name
    return next((name for name in ("messages", "conversations") if not is_missing(values.get(name))), None)


def _split_name(name: str) -> tuple[str, str]:
    """Stem and ending of a member's file name; the ending in lower case.

    As in WebDataset, an ending may have several parts, ``a.seg.png``. A part that is not letters alone belongs to the
    stem, though: ``37.77_-122.41.jpg`` is the image of ``37.77_-122.41``.
    """
    ending = re.search(r"(?:\.[A-Za-z_]+)*\.\w+$", name)
    start = ending.start() if ending and ending.start() > 0 else len(name)
    return name[:start], name[start + 1 :].lower()


def _open_file(shard: Path) -> BinaryIO:
    try:
        return shard.open("rb")
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error}") from error


def _content(member: tarfile.TarInfo, file: BinaryIO) -> str:
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8-sig", "surrogateescape")


def _members(shard: Path, file: BinaryIO, prefix: str) -> Iterator[tarfile.TarInfo | RowFault]:
    """Yields the regular files, and a fault for any bytes between members that are neither header nor zeros."""
    size = os.fstat(file.fileno()).st_size
    reached = 0
    tar = _open_tar(file, size)
    while tar is not None:
        try:
            member = tar.next()
        except (tarfile.TarError, ValueError):  # damaged multi-block header: the gap is reported
            tar.offset += _BLOCK
            if tar.offset >= size:
                break
            continue
        if member is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every header of the shard
        if member.size < 0:  # a malicious header that would make readers loop
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
    """Yields the fault of a tar after its last member, which ends at byte ``reached``, if there is one."""
    where = f"{prefix}byte {min(reached, size)}"
    if reached == 0 and (size == 0 or _is_damaged(file, 0, size)):
        file.seek(0)
        packed = "; it is compressed: gunzip it" if file.read(2) == b"\x1f\x8b" else ""
        yield RowFault(where, "bad_member", f"{shard} is not a tar: needs an uncompressed one{packed}")
    elif _is_damaged(file, max(size - _BLOCK, 0), size) or reached >= size:
        yield RowFault(where, "truncated_file", f"{shard} ends after {size} bytes, without a tar's end")
    elif _is_damaged(file, reached, size):
        yield RowFault(where, "bad_member", f"{shard}: no tar header at byte {reached}")


def _is_damaged(file: BinaryIO, start: int, end: int) -> bool:
    """Whether these bytes, which belong to no member, contain more than zeros or a global header."""
    file.seek(start)
    block = file.read(min(_BLOCK, end - start))
    if block[_TYPE_OFFSET : _TYPE_OFFSET + 1] == tarfile.XGLTYPE:
        return False
    while block:
        if block.strip(b"\0"):
            return True
        block = file.read(min(_READ_BYTES, end - file.tell()))
    return False


def _open_tar(file: BinaryIO, size: int) -> tarfile.TarFile | None:
    """Opens the tar at its first valid header; None if there is none."""
    for start in range(0, size, _BLOCK):
        file.seek(start)
        try:
            # ignore_zeros: without it, tarfile silently takes the first damaged header for the end of the archive.
            return tarfile.TarFile(fileobj=file, ignore_zeros=True)
        except (tarfile.TarError, ValueError):
            continue
    return None
