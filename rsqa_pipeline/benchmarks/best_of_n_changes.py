"""What more answers change: gains that end (saturation), and figures that fall while the selector's own score rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from rsqa_pipeline.benchmarks.selectors import Grades
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


def saturates_at(changes: Sequence[Mapping[str, Any]]) -> int | None:
    """The smallest n from which no doubling changes the figure beyond its interval; None if the last one still does.

    Args:
        changes: rows of `CHANGE` of one selector and task.
    """
    found = None
    for row in sorted(changes, key=lambda row: -row["from_n"]):
        if row["saturated"] is False:
            break
        if row["saturated"]:
            found = int(row["from_n"])
    return found


def over_optimised_from(changes: Sequence[Mapping[str, Any]]) -> int | None:
    """The smallest n whose figure is below that of fewer answers although the score is higher; None if there is none.

    Args:
        changes: as in `saturates_at`.
    """
    return min((int(row["to_n"]) for row in changes if row["over_optimised"]), default=None)


def by_curve(changes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """(selector, task) -> its rows of `CHANGE`."""
    curves: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in changes:
        curves.setdefault((row["selector"], row["task"]), []).append(row)
    return curves


def flags(changes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``selector/task/saturated`` and ``selector/task/over_optimised``: 0 or 1; the latter for selectors with a score,
    the former where a count is twice another."""
    found: dict[str, float] = {}
    for (selector, task), of_curve in by_curve(changes).items():
        if any(row["saturated"] is not None for row in of_curve):
            found[f"{selector}/{task}/saturated"] = float(saturates_at(of_curve) is not None)
        if any(row["over_optimised"] is not None for row in of_curve):
            found[f"{selector}/{task}/over_optimised"] = float(over_optimised_from(of_curve) is not None)
    return found


def _differences(
    values: Grades, selector: str, before: int, after: int, items: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    first, last = (np.array([values[selector, n][index] for index in items], dtype=float) for n in (before, after))
    return last - first
