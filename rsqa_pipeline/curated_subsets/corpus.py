"""The corpus to curate: every caption and instruction sample of split "corpus", in one fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import stream_table

Kind = Literal["caption", "instruction"]

TABLES: dict[str, Kind] = {"image_text_pairs": "caption", "instruction_samples": "instruction"}
"""The asset that holds each kind of sample."""


def read_corpus(inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Samples of split "corpus" from both tables, captions first, each with its ``kind``; other splits are left out.

    Args:
        inputs: folders of ``image_text_pairs`` and, if the profile has them, ``instruction_samples``.
    """
    return list(stream_corpus(inputs))


def no_samples(inputs: Mapping[str, Path]) -> DataError:
    """The error of a corpus without a sample."""
    return DataError(
        f"no sample of split 'corpus' in {' or '.join(str(inputs[asset]) for asset in TABLES if asset in inputs)}"
    )


def stream_corpus(inputs: Mapping[str, Path], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Like `read_corpus`, one row at a time.

    Args:
        columns: columns to read besides ``kind``; None reads all.
    """
    wanted = None if columns is None else [*columns, "split"]
    for asset, kind in TABLES.items():
        if asset not in inputs:  # a profile with captions alone
            continue
        for row in stream_table(inputs[asset] / "samples.parquet", wanted):
            if row["split"] == "corpus":
                yield {**row, "kind": kind}
