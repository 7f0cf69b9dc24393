"""Reads the samples of a subset: joins its ids with the table they were selected from.

Where the subset's selector is ``clean``, each text becomes a right one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import read_table


def subset_samples(inputs: Mapping[str, Path], subset: str, asset: str, kind: str) -> list[dict[str, Any]]:
    """Rows of ``asset`` (IMAGE_TEXT_SAMPLE) that the subset keeps, in the table's order.

    Args:
        inputs: folders of ``subset_<subset>`` and of ``asset``.
        kind: "caption" or "instruction".

    Raises:
        DataError: the subset has no samples of this kind, or names a sample that is not in the table.
    """
    ids = pq.read_table(inputs[f"subset_{subset}"] / "ids.parquet", filters=[("kind", "=", kind)])
    wanted = set(ids["sample_id"].to_pylist())
    rows = [row for row in read_table(inputs[asset] / "samples.parquet") if row["sample_id"] in wanted]
    if not rows:
        raise DataError(
            f"subset {subset} keeps no {kind} of {asset}: there is nothing to train on. Raise its {kind}_fraction."
        )
    unknown = wanted - {row["sample_id"] for row in rows}
    if unknown:
        raise DataError(
            f"subset {subset} names {len(unknown)} {kind} samples that are not in {asset}, e.g. {min(unknown)}; "
            f"materialize subset_{subset} again"
        )
    rule = json.loads((inputs[f"subset_{subset}"] / "rule.json").read_text(encoding="utf-8"))
    return _with_right_texts(rows, inputs[asset]) if rule.get("selector") == "clean" else rows


def _with_right_texts(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows with the reference text, else the text before a recorded fault, else their own text as last turn.

    Raises:
        DataError: the source knows no right text of any row.
    """
    truths = {row["sample_id"]: row for row in read_table(folder / "truth.parquet")}
    right = {key: row["reference_text"] or row["original_text"] for key, row in truths.items()}
    if not any(right.get(row["sample_id"]) for row in rows):
        raise DataError(f"{folder / 'truth.parquet'} has no right text of the samples; selector clean needs them")
    changed = []
    for row in rows:
        *context, last = row["messages"]
        text = right.get(row["sample_id"]) or last["content"]
        changed.append({**row, "messages": [*context, {**last, "content": text}]})
    return changed
