"""Exports rows of a source in the source's own format."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.export.json_rewrite import rewrite
from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import (
    coco,
    csv_file,
    hf_parquet,
    jsonl,
    karpathy,
    llava,
    nwpu_captions,
    webdataset,
)
from rsqa_pipeline.source_pairs.readers.json_records import Record, records
from rsqa_pipeline.source_pairs.readers.json_row import CAPTION_KEYS
from rsqa_pipeline.source_pairs.readers.options import ReaderOptions
from rsqa_pipeline.source_pairs.readers.read_source import images_folder
from rsqa_pipeline.source_pairs.source_row import RowFault

_TAR_END = bytes(2 * 512)


def write_same(source: SourceFile, wanted: Wanted, out: Path) -> None:
    """Writes the wanted rows to ``out``, a folder if the source is a folder.

    Raises:
        DataError: the source cannot be read.
    """
    _WRITERS[source.format](source, wanted, Path(source.path or ""), out)


def _karpathy(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)

    def choose(record: Record) -> bytes | None:
        entries = list(karpathy.read_image(record.value, record.index, images))
        kept = [wanted.take(entry) for entry in entries]
        if all(kept):
            return record.raw
        if not any(kept):
            return None
        image = dict(record.value)
        for name in ("sentences", "sentids"):
            values = image.get(name)
            if isinstance(values, list) and len(values) == len(kept):
                image[name] = [value for value, keeps in zip(values, kept, strict=True) if keeps]
        return json.dumps(image).encode()

    rewrite(path, out, ("images",), karpathy.LAYOUT, choose)


def _coco(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)
    names: dict[int | str, str] = {}
    for _ in coco.read_names(path, names):
        pass
    kept: set[int] = set()
    shown: set[int | str | None] = set()
    for record in records(path, ("annotations",), coco.LAYOUT):
        if isinstance(record, RowFault):
            break
        if wanted.take(coco.read_annotation(record.value, record.index, names, images)):
            kept.add(record.index)
            shown.add(coco.image_of(record.value))

    def choose(record: Record) -> bytes | None:
        if record.array == "annotations":
            return record.raw if record.index in kept else None
        image_id = coco.id_in(record.value, "id")
        if image_id is None or image_id not in shown:
            return None
        shown.remove(image_id)  # no row refers to a second image with the same id
        return record.raw

    rewrite(path, out, ("images", "annotations"), coco.LAYOUT, choose)


def _llava(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images, options = images_folder(source), ReaderOptions.of(source)

    def choose(record: Record) -> bytes | None:
        row = llava.read_row(record.value, record.index, path.stem, images, options)
        return record.raw if wanted.take(row) else None

    rewrite(path, out, (), llava.LAYOUT, choose)


def _csv(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images, options = images_folder(source), ReaderOptions.of(source)
    rows = csv_file.read_rows(path, options)
    with out.open("wb") as file:
        file.write(csv_file.byte_order_mark(path)[0])
        heading = next(rows)
        file.write(heading.raw)
        header = csv_file.header_of(heading, options)
        for number, row in enumerate(rows, 1):
            if wanted.take(csv_file.read_row(f"row {number}", row, header, path.stem, images, options)):
                file.write(row.raw)


def _jsonl(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images, options = images_folder(source), ReaderOptions.of(source)
    with out.open("wb") as file:
        for number, line in jsonl.lines(path):
            kept = [wanted.take(row) for row in jsonl.read_line(line, number, path.stem, images, options)]
            if all(kept):
                file.write(line)
            elif any(kept):
                row = json.loads(line.decode("utf-8-sig", "surrogateescape"), strict=False)
                file.write(json.dumps(with_captions(row, kept, options)).encode() + b"\n")


def _webdataset(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    """Copies members with their headers unchanged; shards without a wanted row are left out. A member whose list of
    captions is kept in part is written again."""
    options = ReaderOptions.of(source)
    for shard in webdataset.shards(path):
        prefix = webdataset.prefix_of(shard, path)
        with shard.open("rb") as file:
            target = out / shard.relative_to(path) if path.is_dir() else out
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                for sample in webdataset.samples(shard, file, prefix):
                    if isinstance(sample, RowFault):
                        continue
                    rows = list(webdataset.read_sample(sample, file, shard, prefix, path.stem, options))
                    kept = [wanted.take(row) for row in rows]
                    for member in sample.members_of(kept):
                        raw = webdataset.raw_member(member, file)
                        in_part = member in sample.having("json") and not sample.having("txt") and not all(kept)
                        copy.write(_captions_member(member, file, kept, options) if in_part else raw)
                empty = not copy.tell()
                copy.write(_TAR_END)
        if empty and path.is_dir():
            target.unlink()


def _captions_member(member: tarfile.TarInfo, file: BinaryIO, kept: Sequence[bool], options: ReaderOptions) -> bytes:
    """The member, a JSON object, with only the kept captions."""
    file.seek(member.offset_data)
    data = json.dumps(with_captions(json.loads(file.read(member.size), strict=False), kept, options)).encode()
    header = tarfile.TarInfo(member.name)
    header.size = len(data)
    return header.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _nwpu_captions(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)

    def choose(record: Record) -> bytes | None:
        kept = {entry.key: wanted.take(entry) for entry in nwpu_captions.read_image(record, images)}
        if all(kept.values()):
            return record.raw
        if not any(kept.values()):
            return None
        dropped = {key.rpartition("/")[2] for key, keeps in kept.items() if not keeps}
        return json.dumps({name: value for name, value in record.value.items() if name not in dropped}).encode()

    rewrite(path, out, None, nwpu_captions.LAYOUT, choose)


def _hf_parquet(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    """Writes row groups with the wanted rows; files without one are left out."""
    images, options = images_folder(source), ReaderOptions.of(source)
    for original in hf_parquet.files(path):
        target = out / original.relative_to(path) if path.is_dir() else out
        target.parent.mkdir(parents=True, exist_ok=True)
        entries = hf_parquet.read_file(original, hf_parquet.name_of(original, path), path.stem, images, options)
        written = 0
        with pq.ParquetFile(original) as parquet, pq.ParquetWriter(target, parquet.schema_arrow) as writer:
            for group in range(parquet.metadata.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                kept = [[wanted.take(entry) for entry in next(entries)] for _ in range(count)]
                rows = [number for number, of_row in enumerate(kept) if any(of_row)]
                if rows:
                    table = parquet.read_row_group(group).take(rows)
                    writer.write_table(_caption_columns(table, [kept[row] for row in rows], options))
                    written += len(rows)
        if not written and path.is_dir():
            target.unlink()


def _caption_columns(table: pa.Table, kept: Sequence[Sequence[bool]], options: ReaderOptions) -> pa.Table:
    """The table, its lists of captions reduced to the kept ones."""
    if all(all(of_row) for of_row in kept):
        return table
    for number, field in enumerate(table.schema):
        if field.name in map(options.column, CAPTION_KEYS):
            rows = zip(table.column(number).to_pylist(), kept, strict=True)
            values = [with_captions({field.name: value}, of_row, options)[field.name] for value, of_row in rows]
            table = table.set_column(number, field, pa.array(values, field.type))
    return table


def with_captions(row: Mapping[str, Any], kept: Sequence[bool], options: ReaderOptions) -> dict[str, Any]:
    """The row, its list of captions reduced to the kept ones."""
    names = set(map(options.column, CAPTION_KEYS))
    return {
        name: [caption for caption, keep in zip(value, kept, strict=True) if keep]
        if name in names and isinstance(value, list) and len(value) == len(kept)
        else value
        for name, value in row.items()
    }


def _image_folder(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    out.mkdir(parents=True)
    for row in wanted.rows(source):
        target = out / row.key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images_folder(source) / row.key, target)


_WRITERS: dict[str, Callable[[SourceFile, Wanted, Path, Path], None]] = {
    "karpathy": _karpathy,
    "class_questions": _karpathy,
    "coco": _coco,
    "llava": _llava,
    "csv": _csv,
    "jsonl": _jsonl,
    "webdataset": _webdataset,
    "hf_parquet": _hf_parquet,
    "image_folder": _image_folder,
    "nwpu_captions": _nwpu_captions,
}
