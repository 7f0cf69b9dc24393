"""The corpus to curate: every caption and instruction sample of split "corpus", in one fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rsqa_pipeline.records import read_table

Kind = Literal["caption", "instruction"]

TABLES: dict[str, Kind] = {"image_text_pairs": "caption", "instruction_samples": "instruction"}
"""The asset that holds each kind of sample."""


def read_corpus(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Samples of split "corpus" of both tables, captions first, each with its ``kind``; other splits are left out.

    Args:
        inputs: folders of ``image_text_pairs`` and ``instruction_samples``.
    """
    return [
        {**row, "kind": kind}
        for asset, kind in TABLES.items()
        for row in read_table(inputs[asset] / "samples.parquet")
        if row["split"] == "corpus"
    ]


def in_shards(rows: list[dict[str, Any]], shard_rows: int) -> Iterator[list[dict[str, Any]]]:
    """Consecutive runs of at most ``shard_rows`` rows."""
    for start in range(0, len(rows), shard_rows):
        yield rows[start : start + shard_rows]
