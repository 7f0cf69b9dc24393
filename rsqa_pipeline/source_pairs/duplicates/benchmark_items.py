"""Test items that must not be trained on: the profile's own benchmark sets, and further files given by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers.read_source import read_source

OWN_BENCHMARK = "benchmark_sets"
"""Name of the profile's own benchmark sets."""


@dataclass(frozen=True)
class BenchmarkItem:
    """One item of a benchmark: its image and its texts.

    Example: ``BenchmarkItem("benchmark_sets", "retrieval-9f..", "41..", "RSICD_images/airport_3.jpg", ("a plane .",))``
    """

    benchmark: str
    item_id: str
    image_id: str
    image: str
    texts: tuple[str, ...]


def read_items(
    benchmark_sets: Path, further: Mapping[str, SourceFile], max_pixels: int, unreadable: Quarantine
) -> list[BenchmarkItem]:
    """Reads the profile's own items, and the rows of the ``further`` files that are in the test split or in no split.

    Args:
        benchmark_sets: output folder of that asset.
        unreadable: receives the rows of the further files that cannot be used.

    Raises:
        DataError: a file cannot be used at all.
    """
    items = [
        BenchmarkItem(
            OWN_BENCHMARK,
            row["item_id"],
            row["image_id"],
            row["image"],
            tuple(row["captions"] or [f"{row['question'] or ''} {row['answer'] or ''}"]),
        )
        for row in read_table(benchmark_sets / "items.parquet")
    ]
    for name, source in further.items():
        entries = list(read_source(source))
        names_test = any(entry.split == "test" for entry in entries)
        test = [entry for entry in entries if not names_test or entry.split in ("test", None)]
        for clean in check_rows(test, ImageIndex(max_pixels), unreadable):
            text = " ".join(message["content"] for message in clean.row.messages)
            items.append(BenchmarkItem(name, clean.row.key, clean.image_id, clean.row.image, (text,)))
    return items
