"""Exports rows of a source in the source's own format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.export.json_rewrite import rewrite
from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import coco, csv_file, hf_parquet, jsonl, karpathy, llava, webdataset
from rsqa_pipeline.source_pairs.readers.json_records import Record, records
from rsqa_pipeline.source_pairs.readers.read_source import images_folder
from rsqa_pipeline.source_pairs.source_row import RowFault

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
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
        image_id = record.value.get("id") if isinstance(record.value, dict) else None
        if not isinstance(image_id, int | str) or image_id not in shown:
            return None
        shown.remove(image_id)  # no row refers to a second image with the same id
        return record.raw

    rewrite(path, out, ("images", "annotations"), coco.LAYOUT, choose)


def _llava(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)

    def choose(record: Record) -> bytes | None:
        return record.raw if wanted.take(llava.read_row(record.value, record.index, path.stem, images)) else None

    rewrite(path, out, (), llava.LAYOUT, choose)


def _csv(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)
    rows = csv_file.read_rows(path)
    with out.open("wb") as file, path.open("rb") as original:
        if original.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK:
            file.write(_BYTE_ORDER_MARK)
        heading = next(rows)
        file.write(heading.raw)
        assert isinstance(heading.values, list)  # checked by read_rows
        for number, row in enumerate(rows, 1):
            if wanted.take(csv_file.read_row(f"row {number}", row, heading.values, path.stem, images)):
                file.write(row.raw)


def _jsonl(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    images = images_folder(source)
    with out.open("wb") as file:
        for number, line in jsonl.lines(path):
            if wanted.take(jsonl.read_line(line, number, path.stem, images)):
                file.write(line)


def _webdataset(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    """Copies members with their headers unchanged; shards without a wanted row are left out."""
    for shard in webdataset.shards(path):
        prefix = webdataset.prefix_of(shard, path)
        with shard.open("rb") as file:
            target = out / shard.relative_to(path) if path.is_dir() else out
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                for sample in webdataset.samples(shard, file, prefix):
                    if isinstance(sample, RowFault):
                        continue
                    rows = list(webdataset.read_sample(sample, file, shard, prefix, path.stem))
                    kept = [wanted.take(row) for row in rows]
                    for member in sample.members_of(kept):
                        copy.write(webdataset.raw_member(member, file))
                empty = not copy.tell()
                copy.write(_TAR_END)
        if empty and path.is_dir():
            target.unlink()


def _hf_parquet(source: SourceFile, wanted: Wanted, path: Path, out: Path) -> None:
    """Writes row groups with the wanted rows; files without one are left out."""
    images = images_folder(source)
    for original in hf_parquet.files(path):
        target = out / original.relative_to(path) if path.is_dir() else out
        target.parent.mkdir(parents=True, exist_ok=True)
        entries = hf_parquet.read_file(original, hf_parquet.name_of(original, path), path.stem, images)
        written = 0
        with pq.ParquetFile(original) as parquet, pq.ParquetWriter(target, parquet.schema_arrow) as writer:
            for group in range(parquet.metadata.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                kept = [number for number in range(count) if wanted.take(next(entries))]
                if kept:
                    writer.write_table(parquet.read_row_group(group).take(kept))
                    written += len(kept)
        if not written and path.is_dir():
            target.unlink()


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
}
