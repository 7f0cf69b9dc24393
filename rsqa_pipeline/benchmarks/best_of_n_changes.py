"""What more answers change: gains that end (saturation), and figures that fall while the selector's own score rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from rsqa_pipeline.statistics import hierarchical_mean

CHANGE = pa.schema(
    [
        ("selector", pa.string()),
        ("task", pa.string()),
        ("from_n", pa.int64()),
        ("to_n", pa.int64()),
        ("difference", pa.float64()),  # of the expected grade over the same items, in [-1, 1]
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("score_gain", pa.float64()),  # of the picked answer's score, in the scorer's unit; null without a score
        ("saturated", pa.bool_()),  # the interval contains 0; null unless to_n is twice from_n
        ("over_optimised", pa.bool_()),  # the interval is below 0 while the score rises; null without a score
    ]
)
"""Example: ``{"selector": "clip_score", "task": "count", "from_n": 2, "to_n": 16, "difference": -0.06, "low": -0.1,
"high": -0.02, "score_gain": 0.03, "saturated": None, "over_optimised": True}``"""

Grades = Mapping[tuple[str, int], Sequence[float | None]]
"""(selector, n) -> value of each item, in the order of the items; None without a pick."""


def change_rows(
    values: Grades,
    picked_scores: Grades,
    tasks: Mapping[str, Sequence[int]],
    images: Sequence[str],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of `CHANGE` for every selector and every two counts.

    Args:
        values: expected grades.
        picked_scores: expected score of the picked answer, for selectors that have one.
        tasks: task -> positions of its items.
        images: image of each item; items about one image are resampled together.
    """
    rows = []
    for task, chosen in tasks.items():
        for selector in dict.fromkeys(name for name, _ in values):
            counts = sorted(n for name, n in values if name == selector)
            picked = [index for index in chosen if values[selector, counts[0]][index] is not None]
            for before, after in combinations(counts, 2) if picked else ():
                gain = hierarchical_mean(
                    _differences(values, selector, before, after, picked)[None],
                    resamples,
                    seed,
                    [images[index] for index in picked],
                )
                scored = (selector, before) in picked_scores
                rise = float(_differences(picked_scores, selector, before, after, picked).mean()) if scored else None
                rows.append(
                    {"selector": selector, "task": task, "from_n": before, "to_n": after, "difference": gain.value,
                     "low": gain.low, "high": gain.high, "score_gain": rise,
                     "saturated": gain.low <= 0 <= gain.high if after == 2 * before else None,
                     "over_optimised": None if rise is None else gain.high < 0 < rise}
                )  # fmt: skip
    return rows


def flags(changes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``selector/task/saturated`` (at the largest doubling) and ``selector/task/over_optimised`` (anywhere): 0 or 1."""
    found: dict[str, float] = {}
    for row in sorted(changes, key=lambda row: (row["to_n"], row["from_n"])):
        name = f"{row['selector']}/{row['task']}"
        if row["saturated"] is not None:
            found[f"{name}/saturated"] = float(row["saturated"])
        if row["over_optimised"] is not None:
            found[f"{name}/over_optimised"] = max(
                found.get(f"{name}/over_optimised", 0.0), float(row["over_optimised"])
            )
    return found


def _differences(
    values: Grades, selector: str, before: int, after: int, items: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    first, last = (np.array([values[selector, n][index] for index in items], dtype=float) for n in (before, after))
    return last - first
