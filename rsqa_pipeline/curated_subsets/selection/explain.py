"""Explains a selection: rank and reason of every dropped sample, and the kept share of each part of the corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rsqa_pipeline.records import Message
from rsqa_pipeline.statistics import wilson

DROPPED = pa.schema(
    [
        ("key", pa.string()),  # sample_id, or the row's id from the reader
        ("kind", pa.string()),  # caption | instruction; missing if unknown
        ("rank", pa.int64()),  # 1 + number of samples in its group that rank higher; missing without a score
        ("percentile", pa.float64()),  # percentage of its group's scored samples that rank equal or lower
        ("rule", pa.string()),  # as text; missing for a row that could not be read
        # no_score | below_threshold | outside_top | not_drawn | too_similar, or why the row could not be read
        ("reason", pa.string()),
    ]
)
"""Example: ``{"key": "9f..", "kind": "caption", "rank": 1043, "percentile": 62.4,
"rule": "score_model: best 30% of captions", "reason": "outside_top"}``"""

SHARE_COLUMNS = ("scene_class", "source", "words")
"""Columns by which kept shares are reported, if the samples have them; ``words`` is the text's length."""

_LENGTHS = ((5, "up to 5"), (10, "6 to 10"), (20, "11 to 20"), (40, "21 to 40"))


def answer_words(messages: Sequence[Message] | None) -> int:
    """Number of words in the last message, a caption or an answer."""
    return len(messages[-1]["content"].split()) if messages else 0


def length_bucket(words: int) -> str:
    """The length bucket of a text with this number of words."""
    return next((name for max_words, name in _LENGTHS if words <= max_words), "over 40")


def dropped_rows(samples: pd.DataFrame, decisions: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of DROPPED, sorted by key, from the decisions of `apply_rule` on ``samples``."""
    named = decisions.assign(key=samples["sample_id"], kind=samples["kind"])
    rows = named[~named["kept"].to_numpy(dtype=bool)].sort_values("key")
    records: list[dict[str, Any]] = rows[DROPPED.names].to_dict("records")
    known = [not np.isnan(row["rank"]) for row in records]
    return [
        {**row, "rank": int(row["rank"]) if rank else None, "percentile": row["percentile"] if rank else None}
        for row, rank in zip(records, known, strict=True)
    ]


class Shares:
    """Counts all samples and kept samples by class, source and length, batch by batch."""

    def __init__(self) -> None:
        self._samples: Counter[tuple[str, str, str]] = Counter()
        self._kept: Counter[tuple[str, str, str]] = Counter()

    def add(self, samples: pd.DataFrame, kept: npt.NDArray[np.bool_]) -> None:
        """Adds samples with column ``kind`` and any of SHARE_COLUMNS; a missing value counts as "unknown"."""
        for by in SHARE_COLUMNS:
            if by in samples:
                values = (
                    samples[by].map(length_bucket) if by == "words" else samples[by].astype("string").fillna("unknown")
                )
                counts = pd.Series(kept).groupby([samples["kind"].to_numpy(), values.to_numpy()]).agg(["size", "sum"])
                for (kind, value), size, total in zip(counts.index, counts["size"], counts["sum"], strict=True):
                    self._samples[kind, by, value] += int(size)
                    self._kept[kind, by, value] += int(total)

    def rows(self) -> list[dict[str, Any]]:
        """One row per kind, column and value: samples, kept, dropped, share kept with its 95 % Wilson interval, and
        ``vanished``, true if nothing is kept."""
        rows = []
        for name, samples in sorted(self._samples.items()):
            kept = self._kept[name]
            share = wilson(kept, samples)
            kind, by, value = name
            counts = {"samples": samples, "kept": kept, "dropped": samples - kept}
            figures = {"share": share.value, "low": share.low, "high": share.high, "vanished": kept == 0}
            rows.append({"kind": kind, "by": by, "value": value, **counts, **figures})
        return rows


def vanished_groups(shares: Sequence[dict[str, Any]]) -> list[str]:
    """Classes and sources of which nothing is kept, as text, largest first. Length buckets are not reported."""
    lost = [row for row in shares if row["vanished"] and row["by"] != "words"]
    lost.sort(key=lambda row: (-row["samples"], row["kind"], row["by"], row["value"]))
    return [f"{row['by']} {row['value']!r} ({row['samples']} {row['kind']}s)" for row in lost]


def write_shares(path: Path, shares: Sequence[dict[str, Any]]) -> None:
    path.write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")
