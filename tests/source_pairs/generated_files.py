"""Writes generated rows in every format. Each image carries its number in its pixels, each text in its first word."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import SourceFile
from tests.source_pairs.test_published_shapes import write_members

FAULTS = ("missing", "corrupt", "no_text", "empty_text")


@dataclass(frozen=True)
class Row:
    """One image with its texts, or with a fault: its file is missing or corrupt, or its text is no text or empty."""

    number: int
    texts: tuple[str, ...]
    fault: str | None = None

    @property
    def name(self) -> str:
        return f"{self.number}.png"

    @property
    def data(self) -> bytes:
        """An image of one colour: the number."""
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (self.number, 255 - self.number, 7)).save(buffer, "PNG")
        return buffer.getvalue()[:40] if self.fault == "corrupt" else buffer.getvalue()

    @property
    def values(self) -> list[Any]:
        """The texts as they are in the file."""
        if self.fault == "no_text":
            return [None]
        return [" \t"] if self.fault == "empty_text" else [f"{self.number} {text}" for text in self.texts]


def number_in_pixels(reference: str) -> int:
    red, green, _ = open_image(reference).getpixel((0, 0))  # type: ignore[misc]
    assert red + green == 255
    return int(red)


def number_in_text(text: str) -> int:
    return int(text.split()[0])


def single(rows: Sequence[Row]) -> list[tuple[Row, Any]]:
    """One pair per text."""
    return [(row, value) for row in rows for value in row.values]


def karpathy(folder: Path, rows: Sequence[Row]) -> SourceFile:
    images = [
        {"filename": row.name, "split": "train", "sentences": [{"raw": value} for value in row.values]} for row in rows
    ]
    return _json(folder, {"images": images}, "karpathy")


def coco(folder: Path, rows: Sequence[Row]) -> SourceFile:
    images = [{"id": 10 + index, "file_name": row.name} for index, row in enumerate(rows)]
    annotations = [
        {"id": index, "image_id": 10 + rows.index(row), "caption": value}
        for index, (row, value) in enumerate(reversed(single(rows)))
    ]
    return _json(folder, {"images": images, "annotations": annotations}, "coco")


def nwpu_captions(folder: Path, rows: Sequence[Row]) -> SourceFile:
    (folder / "images" / "port").symlink_to(folder / "images")
    entries = [
        {"filename": row.name, "split": "val", **{f"raw_{n}": value for n, value in enumerate(row.values)}}
        for row in rows
    ]
    return _json(folder, {"port": entries, "pond": []}, "nwpu_captions")


def llava(folder: Path, rows: Sequence[Row]) -> SourceFile:
    def turns(value: Any) -> list[dict[str, Any]]:
        return [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": value}]

    content = [{"image": row.name, "conversations": turns(value)} for row, value in single(rows)]
    return _json(folder, content, "llava")


def jsonl(folder: Path, rows: Sequence[Row]) -> SourceFile:
    lines = [{"image": row.name, "text": value} for row, value in single(rows)]
    return _lines(folder, lines)


def jsonl_lists(folder: Path, rows: Sequence[Row]) -> SourceFile:
    return _lines(folder, [{"images": [row.name], "captions": row.values} for row in rows])


def csv_utf8(folder: Path, rows: Sequence[Row]) -> SourceFile:
    return _csv(folder, rows, "utf-8", ",")


def csv_utf16(folder: Path, rows: Sequence[Row]) -> SourceFile:
    return _csv(folder, rows, "utf-16", "\t")


def webdataset(folder: Path, rows: Sequence[Row]) -> SourceFile:
    members = []
    for row in rows:
        members += [] if row.fault == "missing" else [(f"37.{row.number}_-12.4.png", row.data)]
        for value in row.values:
            members.append((f"37.{row.number}_-12.4.txt", ("" if value is None else value).encode()))
    return _tar(folder, members)


def webdataset_json(folder: Path, rows: Sequence[Row]) -> SourceFile:
    members = []
    for row in rows:
        members += [] if row.fault == "missing" else [(f"{row.number}.png", row.data)]
        members.append((f"{row.number}.json", json.dumps({"captions": row.values}).encode()))
    return _tar(folder, members)


def hf_parquet(folder: Path, rows: Sequence[Row]) -> SourceFile:
    images = [{"bytes": None if row.fault == "missing" else row.data, "path": None} for row, _ in single(rows)]
    return _parquet(folder, {"image": images, "text": [value for _, value in single(rows)]})


def hf_parquet_lists(folder: Path, rows: Sequence[Row]) -> SourceFile:
    images = [
        [{"bytes": None, "path": row.name}] if row.number % 2 else [{"bytes": row.data, "path": ""}] for row in rows
    ]
    images = [[] if row.fault == "missing" else image for row, image in zip(rows, images, strict=True)]
    return _parquet(folder, {"images": images, "captions": [row.values for row in rows]})


FORMATS: Sequence[Callable[[Path, Sequence[Row]], SourceFile]] = (
    karpathy, coco, nwpu_captions, llava, jsonl, jsonl_lists, csv_utf8, csv_utf16, webdataset, webdataset_json,
    hf_parquet, hf_parquet_lists,
)  # fmt: skip


def write(folder: Path, rows: Sequence[Row], form: Callable[[Path, Sequence[Row]], SourceFile]) -> SourceFile:
    """Writes the images and the file into the empty ``folder``."""
    (folder / "images").mkdir(parents=True)
    for row in rows:
        if row.fault != "missing":
            (folder / "images" / row.name).write_bytes(row.data)
    return form(folder, rows).model_copy(update={"images": str(folder / "images")})


def _json(folder: Path, content: Any, form: str) -> SourceFile:
    (folder / "rows.json").write_text(json.dumps(content), encoding="utf-8")
    return SourceFile(format=form, path=str(folder / "rows.json"))  # type: ignore[arg-type]


def _lines(folder: Path, rows: Sequence[Any]) -> SourceFile:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceFile(format="jsonl", path=str(folder / "rows.jsonl"))


def _csv(folder: Path, rows: Sequence[Row], encoding: str, delimiter: str) -> SourceFile:
    with (folder / "rows.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("image", "text"), *((row.name, value) for row, value in single(rows))])
    return SourceFile(format="csv", path=str(folder / "rows.csv"), delimiter=delimiter)


def _tar(folder: Path, members: Sequence[tuple[str, bytes]]) -> SourceFile:
    write_members(folder / "rows.tar", *members)
    return SourceFile(format="webdataset", path=str(folder / "rows.tar"))


def _parquet(folder: Path, columns: dict[str, list[Any]]) -> SourceFile:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    types = {"image": image, "images": pa.list_(image), "text": pa.string(), "captions": pa.list_(pa.string())}
    table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    pq.write_table(table, folder / "rows.parquet", row_group_size=3)
    return SourceFile(format="hf_parquet", path=str(folder / "rows.parquet"))
