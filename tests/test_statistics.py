"""Intervals and paired tests compared with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rsqa_pipeline.statistics import (
    Interval,
    bootstrap_mean,
    detectable_difference,
    holm,
    mcnemar,
    paired_difference,
    wilson,
)


def test_wilson_by_hand() -> None:
    # 8 of 10: z^2 = 3.84146, centre = (0.8 + 0.19207) / 1.38415 = 0.71674, half = 0.22660
    interval = wilson(8, 10)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(0.49016, abs=1e-5)
    assert interval.high == pytest.approx(0.94332, abs=1e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (1, 1), (37, 300), (299, 300)])
def test_wilson_agrees_with_scipy_and_contains_its_value(successes: int, n: int) -> None:
    interval = wilson(successes, n)
    reference = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_invalid_proportions(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="wilson needs"):
        wilson(successes, n)


def test_bootstrap_mean_has_the_width_of_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values, 4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.06)
    assert interval.n == 400


def test_bootstrap_is_exact_on_two_values() -> None:
    # Means of two draws of {0, 1}: 0 (1/4), 1/2 (1/2), 1 (1/4): the 2.5 % and 97.5 % quantiles are 0 and 1.
    assert bootstrap_mean([0.0, 1.0], 1000, seed=0).low == 0.0
    assert bootstrap_mean([0.0, 1.0], 1000, seed=0).high == 1.0


def test_bootstrap_is_deterministic_and_has_no_width_without_variation() -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.25]
    assert bootstrap_mean(values, 500, seed=3) == bootstrap_mean(values, 500, seed=3)
    constant = bootstrap_mean([2.0] * 7, 100, seed=0)
    assert (constant.low, constant.value, constant.high) == (2.0, 2.0, 2.0)


def test_many_items_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(1000)
    whole = bootstrap_mean(values, 50, seed=5)
    monkeypatch.setattr("rsqa_pipeline.statistics._MAX_DRAWS_IN_MEMORY", 7000)
    assert bootstrap_mean(values, 50, seed=5) == whole  # the generator's stream does not depend on the parts


def test_paired_difference_is_narrower_than_unpaired() -> None:
    difficulty = np.random.default_rng(0).normal(0, 5, size=200)
    a, b = difficulty + 1.0, difficulty.copy()
    interval = paired_difference(a, b, 500, seed=0)
    assert (interval.low, interval.value, interval.high) == pytest.approx((1.0, 1.0, 1.0))
    assert bootstrap_mean(a, 500, seed=0).high - bootstrap_mean(a, 500, seed=0).low > 1


def test_paired_difference_by_hand() -> None:
    assert paired_difference([1, 0, 1, 1], [0, 0, 1, 0], 100, seed=0).value == 0.5


def test_mcnemar_by_hand() -> None:
    # a alone right 5 times, b alone once, both right 3 times: p = 2 * (C(6,0) + C(6,1)) / 2**6 = 14 / 64
    a = [1] * 5 + [0] + [1] * 3
    b = [0] * 5 + [1] + [1] * 3
    assert mcnemar(a, b) == pytest.approx(14 / 64)
    assert mcnemar(b, a) == pytest.approx(14 / 64)


def test_mcnemar_counts_wins_of_graded_values_and_is_one_without_difference() -> None:
    assert mcnemar([0.2, 0.6, 1.0], [0.4, 0.5, 0.0]) == 1.0
    assert mcnemar([0.6, 0.6, 1.0], [0.4, 0.5, 0.0]) == pytest.approx(0.25)
    assert mcnemar([True, False], [True, False]) == 1.0


@pytest.mark.parametrize("function", [paired_difference, mcnemar])
def test_paired_values_must_match(function) -> None:  # type: ignore[no-untyped-def]
    more = (100, 0) if function is paired_difference else ()
    with pytest.raises(ValueError, match="same items"):
        function([1.0, 0.0], [1.0], *more)
    with pytest.raises(ValueError, match="not finite"):
        function([1.0, math.nan], [1.0, 0.0], *more)
    with pytest.raises(ValueError, match="at least one item"):
        function([], [], *more)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .5: times 4, 3, 2, 1, never below an earlier one
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        assert p <= found <= min(1.0, len(p_values) * p) + 1e-12
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_a_detectable_difference_is_found_in_four_of_five_repetitions() -> None:
    rng = np.random.default_rng(0)
    n, error = 400, 1 / 20
    difference = detectable_difference(Interval(0.0, -1.96 * error, 1.96 * error, n))
    means = rng.normal(difference, error, size=4000)
    assert np.mean(means - 1.96 * error > 0) == pytest.approx(0.8, abs=0.03)
