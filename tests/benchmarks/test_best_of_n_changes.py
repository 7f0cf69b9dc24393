"""Saturation and over-optimisation on made-up curves."""

from __future__ import annotations

from typing import Any

from rsqa_pipeline.benchmarks.best_of_n_changes import change_rows, flags, over_optimised_from, saturates_at

ITEMS = 40


def changes(levels: dict[int, float], scores: dict[int, float] | None) -> list[dict[str, Any]]:
    """Changes of a selector whose items all have these levels, but for a small spread."""
    values = {("judge", n): [level + 0.01 * (i % 3) for i in range(ITEMS)] for n, level in levels.items()}
    picked = {("judge", n): [score] * ITEMS for n, score in (scores or {}).items()}
    images = [f"image-{i // 2}" for i in range(ITEMS)]
    return change_rows(values, picked, {"count": range(ITEMS)}, images, 50, seed=0)


def test_a_curve_that_stops_rising_is_saturated() -> None:
    found = changes({1: 0.3, 2: 0.5, 4: 0.5}, {1: 0.0, 2: 1.0, 4: 2.0})
    assert [(row["from_n"], row["to_n"], row["saturated"]) for row in found] == [
        (1, 2, False),
        (1, 4, None),
        (2, 4, True),
    ]
    assert flags(found) == {"judge/count/saturated": 1.0, "judge/count/over_optimised": 0.0}
    assert saturates_at(found) == 2


def test_saturation_begins_where_no_later_doubling_changes_the_figure() -> None:
    assert saturates_at(changes({1: 0.3, 2: 0.5, 4: 0.5, 8: 0.5, 16: 0.5}, None)) == 2
    assert saturates_at(changes({1: 0.3, 2: 0.3, 4: 0.5, 8: 0.5}, None)) == 4  # not at 1, where it also rests
    assert saturates_at(changes({1: 0.3, 2: 0.3, 4: 0.5}, None)) is None
    assert saturates_at(changes({1: 0.3, 3: 0.3}, None)) is None  # no count is twice another: not known
    assert flags(changes({1: 0.3, 3: 0.3}, None)) == {}


def test_over_optimisation_begins_at_the_first_figure_below_an_earlier_one() -> None:
    scores = {1: 0.0, 2: 1.0, 4: 2.0, 8: 3.0}
    assert over_optimised_from(changes({1: 0.3, 2: 0.5, 4: 0.45, 8: 0.4}, scores)) == 4
    assert over_optimised_from(changes({1: 0.3, 2: 0.5, 4: 0.5, 8: 0.4}, scores)) == 8
    assert over_optimised_from(changes({1: 0.3, 2: 0.4, 4: 0.5, 8: 0.6}, scores)) is None


def test_a_figure_that_falls_while_the_score_rises_is_over_optimised() -> None:
    found = changes({1: 0.3, 2: 0.5, 4: 0.4}, {1: 0.0, 2: 1.0, 4: 2.0})
    assert [row["over_optimised"] for row in found] == [False, False, True]
    assert flags(found) == {"judge/count/saturated": 0.0, "judge/count/over_optimised": 1.0}
    fallen = changes({2: 0.5, 4: 0.4}, {2: 1.0, 4: 1.0})
    assert [row["over_optimised"] for row in fallen] == [False]  # its score did not rise


def test_a_selector_without_a_score_is_never_over_optimised() -> None:
    assert flags(changes({1: 0.5, 2: 0.4}, None)) == {"judge/count/saturated": 0.0}


def test_items_without_a_pick_are_left_out() -> None:
    values = {("judge", n): [None, grade] for n, grade in ((1, 0.0), (2, 1.0))}
    (row,) = change_rows(values, values, {"count": [0, 1], "none": [0]}, ["a", "b"], 20, seed=0)
    assert (row["task"], row["difference"], row["score_gain"]) == ("count", 1.0, 1.0)
