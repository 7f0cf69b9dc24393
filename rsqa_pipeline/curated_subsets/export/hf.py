"""Exports rows of any source as a data set folder for `datasets.load_dataset`, with images and a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.images.references import parse_reference
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.json_row import facts_of
from rsqa_pipeline.source_pairs.source_row import SourceRow

FILE_BYTES = 512 << 20
GROUP_ROWS = 100
"""Rows per row group: few enough that reading one image does not read many others."""
GROUP_BYTES = 64 << 20


class _SplitFiles:
    """The Parquet files of one split, each of about FILE_BYTES."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._file_bytes = 0
        self._files = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += len(row["image"]["bytes"])
        if len(self._rows) == GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write()

    def close(self) -> None:
        """Writes the remaining rows and gives the files their final names, which contain the number of files."""
        if self._rows or not self._files:
            self._write()
        self._end_file()
        for number in range(self._files):
            self._part(number).rename(self._folder / f"{self._split}-{number:05d}-of-{self._files:05d}.parquet")

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number:05d}.part"

    def _write(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._part(self._files), self._schema)
            self._files += 1
        if self._rows:  # `datasets` cannot read a row group without rows
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._file_bytes += self._bytes
        self._rows, self._bytes = [], 0
        if self._file_bytes >= FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_bytes = None, 0


def write_hf(source: SourceFile, wanted: Wanted, out: Path, facts: Mapping[str, str]) -> None:
    """Writes ``data/<split>-00000-of-00001.parquet`` and ``README.md``; rows without a split are in ``train``.

    Columns: ``id`` (the row's key), ``image``, ``messages``, ``task``, ``source``, ``split`` (missing if the source
    has none), ``scene_class``.

    Args:
        facts: additional lines of the card's table.
    """
    schema = _schema()
    (out / "data").mkdir(parents=True)
    splits: dict[str, _SplitFiles] = {}
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for row, data in wanted.rows_with_images(source):
            split = row.split or "train"
            if split not in splits:
                splits[split] = _SplitFiles(out / "data", split, schema)
                stack.callback(splits[split].close)
            splits[split].add(_values(row, data))
            counts[split] += 1
        if not splits:
            stack.callback(_SplitFiles(out / "data", "train", schema).close)
            counts["train"] = 0
    (out / "README.md").write_text(_card(source, counts, wanted.left_out, facts), encoding="utf-8")


def _schema() -> pa.Schema:
    """Schema with the feature types of `datasets`, so that images are decoded on reading."""
    from datasets import Features, Image, List, Value  # takes seconds to import; only this form needs it

    text = Value("string")
    columns = {"id": text, "image": Image(), "messages": List({"role": text, "content": text})}
    columns |= dict.fromkeys(("task", "source", "split", "scene_class"), text)
    return Features(columns).arrow_schema


def _values(row: SourceRow, data: bytes) -> dict[str, Any]:
    name = Path(parse_reference(row.image).file).name
    return {"id": row.key, "image": {"bytes": data, "path": name}, "messages": row.messages, **facts_of(row)}


def _card(source: SourceFile, counts: Counter[str], left_out: Counter[str], facts: Mapping[str, str]) -> str:
    files = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in sorted(counts))
    lines = {
        "source": f"{Path(source.path or '').name} ({source.format})",
        **{f"rows, {split}": str(count) for split, count in sorted(counts.items())},
        **{f"left out, {reason}": str(count) for reason, count in sorted(left_out.items())},
        **facts,
    }
    table = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in lines.items())
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\n---\n\n"
        "# A subset of image-text data\n\n"
        "Each row is an image with chat `messages` about it; a caption is one assistant turn.\n\n"
        f"| | |\n|---|---|\n{table}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
