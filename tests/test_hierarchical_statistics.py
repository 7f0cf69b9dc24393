"""Intervals over training seeds and items."""

from __future__ import annotations

import numpy as np
import pytest

from rsqa_pipeline.statistics import bootstrap_mean, hierarchical_mean


def naive_hierarchical_means(table: list[list[float]], resamples: int, seed: int) -> list[float]:
    """The resampled means, one drawn cell at a time."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        seeds = rng.integers(0, len(table), len(table))
        items = rng.integers(0, len(table[0]), len(table[0]))
        cells = [table[row][column] for row in seeds for column in items]
        means.append(sum(cells) / len(cells))
    return means


@pytest.mark.parametrize("shape", [(2, 7), (5, 40), (3, 1)])
def test_interval_is_the_naive_one(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(3).random(shape)
    found = hierarchical_mean(table, 300, 11)
    low, high = np.quantile(naive_hierarchical_means(table.tolist(), 300, 11), [0.025, 0.975])
    assert found.value == pytest.approx(table.mean())
    assert (found.low, found.high) == pytest.approx((min(low, table.mean()), max(high, table.mean())))
    assert found.n == shape[1]


def naive_clustered_means(table: list[list[float]], clusters: list[str], resamples: int, seed: int) -> list[float]:
    """The resampled means, one drawn image and item at a time."""
    rng = np.random.default_rng(seed)
    names = sorted(set(clusters))
    means = []
    for _ in range(resamples):
        seeds = rng.integers(0, len(table), len(table))
        drawn = rng.integers(0, len(names), len(names))
        columns = [c for name in drawn for c, cluster in enumerate(clusters) if cluster == names[name]]
        cells = [table[row][column] for row in seeds for column in columns]
        means.append(sum(cells) / len(cells))
    return means


@pytest.mark.parametrize("seeds", [1, 4])
def test_items_of_one_image_are_drawn_together(seeds: int) -> None:
    rng = np.random.default_rng(3)
    table, clusters = rng.random((seeds, 12)), ["b", "a", "c", "a", "b", "b", "d", "e", "a", "f", "f", "g"]
    found = hierarchical_mean(table, 300, 11, clusters)
    low, high = np.quantile(naive_clustered_means(table.tolist(), clusters, 300, 11), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(table.mean()) and found.n == 12


def test_equal_answers_about_an_image_widen_the_interval() -> None:
    answers = np.repeat(np.random.default_rng(5).integers(0, 2, 100), 8).astype(float)[None]
    apart = hierarchical_mean(answers, 500, 1)
    together = hierarchical_mean(answers, 500, 1, [str(i // 8) for i in range(800)])
    assert together.high - together.low > 2 * (apart.high - apart.low)
    with pytest.raises(ValueError, match="one cluster per item; found 3 for 800 items"):
        hierarchical_mean(answers, 10, 1, ["a", "b", "c"])


def test_one_seed_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(5).random(50)
    assert hierarchical_mean(values[None], 200, 1) == bootstrap_mean(values, 200, 1)


def test_spread_between_seeds_widens_the_interval() -> None:
    items = np.random.default_rng(5).random(400)
    same = hierarchical_mean(np.stack([items] * 5), 500, 1)
    apart = hierarchical_mean(np.stack([items + shift for shift in (-0.2, -0.1, 0.0, 0.1, 0.2)]), 500, 1)
    assert same.value == pytest.approx(apart.value)
    assert apart.high - apart.low > 2 * (same.high - same.low)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
def test_an_empty_table_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row per seed"):
        hierarchical_mean(np.zeros(shape), 10, 0)


def test_a_missing_value_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 6"):
        hierarchical_mean(np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0]]), 10, 0)
