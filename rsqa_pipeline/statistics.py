"""Intervals and paired tests: every reported figure comes with its uncertainty.

All intervals are 95 %. The paper gives no error bars (paper, evaluation); these are the project's addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

_MAX_DRAWS_IN_MEMORY = 4_000_000
"""Largest number of resampled values in memory: 32 MB as float64."""

Values = Sequence[float] | Sequence[bool] | npt.NDArray[np.float64] | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A mean (or a difference of means) over ``n`` items, with its 95 % interval ``low <= value <= high``."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: int, n: int) -> Interval:
    """Wilson score interval of a proportion; stays inside [0, 1] and has width even at 0 or n successes.

    Raises:
        ValueError: no trials, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson needs n >= 1 and 0 <= successes <= n, found successes={successes}, n={n}")
    share = successes / n
    scale = 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # The bounds at 0 and n successes are exactly 0 and 1; floating point misses them by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high, n)


def bootstrap_mean(values: Values, resamples: int, seed: int) -> Interval:
    """Percentile bootstrap of the mean over items.

    Args:
        values: one number per item, any unit; the caller must leave out (and count) missing values.
        resamples: number of bootstrap samples, >= 1.
        seed: seed of the generator; the same seed gives the same interval.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    sample = _finite(values)
    means = _resampled_means(sample, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(sample.mean())
    # With few, skewed items the mean can lie outside the percentiles; the interval must contain its value.
    return Interval(value, min(float(low), value), max(float(high), value), len(sample))


def hierarchical_mean(
    values: npt.NDArray[np.float64], resamples: int, seed: int, clusters: Sequence[str] | None = None
) -> Interval:
    """Mean over training seeds and items, with a percentile bootstrap over seeds and clusters of items.

    Every resample draws seeds with replacement, and clusters with replacement, the same for each drawn seed: the models
    of all seeds answer the same items. So the interval covers another training run on other images. With one seed and
    one item per cluster it is `bootstrap_mean`.

    Args:
        values: (seeds, items), any unit.
        resamples: number of bootstrap samples, >= 1.
        seed: of the generator.
        clusters: one name per item: items of one cluster, such as the questions about one image, are drawn together.
            None: each item is its own cluster.

    Returns:
        The interval; ``n`` counts items.

    Raises:
        ValueError: not a table with at least one seed and one item, or a value that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"needs one row per seed and one column per item, at least one of each; found {table.shape}")
    numbers = np.unique(list(clusters), return_inverse=True)[1] if clusters is not None else np.arange(table.shape[1])
    if len(numbers) != table.shape[1]:
        raise ValueError(f"needs one cluster per item; found {len(numbers)} for {table.shape[1]} items")
    sizes = np.bincount(numbers)
    if len(table) == 1 and sizes.max() == 1:
        return bootstrap_mean(table[0], resamples, seed)
    if not np.isfinite(table).all():
        raise ValueError(f"{int((~np.isfinite(table)).sum())} of {table.size} values are not finite numbers")
    seeds, items = table.shape
    sums = np.stack([np.bincount(numbers, weights=row) for row in table])
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):
        # the mean over drawn seeds, then over drawn items, is the mean over the whole drawn table
        of_seeds = sums[rng.integers(0, seeds, seeds)].mean(axis=0)
        drawn = rng.integers(0, len(sizes), len(sizes))
        means[index] = of_seeds[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(table.mean())
    return Interval(value, min(float(low), value), max(float(high), value), items)


def paired_difference(a: Values, b: Values, resamples: int, seed: int) -> Interval:
    """Mean of a - b over the same items, in the same order, with a percentile bootstrap over items.

    Pairing removes the items' own difficulty from the interval: it is narrower than two separate ones.

    Raises:
        ValueError: different lengths, nothing to compare, or a value that is not finite.
    """
    first, second = _paired(a, b)
    return bootstrap_mean(first - second, resamples, seed)


def mcnemar(a_correct: Values, b_correct: Values) -> float:
    """Exact two-sided McNemar p-value: do a and b win equally often on the items where they differ?

    For graded values (e.g. a mean over an image's captions) this is the sign test. 1.0 if they never differ.

    Raises:
        ValueError: different lengths, nothing to compare, or a value that is not finite.
    """
    first, second = _paired(a_correct, b_correct)
    from scipy.stats import binomtest  # takes a second to import; every command would wait for it

    a_wins, b_wins = int((first > second).sum()), int((first < second).sum())
    if a_wins + b_wins == 0:
        return 1.0
    return float(binomtest(a_wins, a_wins + b_wins, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of one family of tests, adjusted by Holm's step-down method; in the given order, at most 1.

    Rejecting where the adjusted value is below 0.05 keeps the chance of any false rejection below 5 %.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def detectable_difference(interval: Interval) -> float:
    """Smallest true difference that a comparison with this 95 % interval would show with a probability of 80 %.

    It is 2.80 standard errors, the normal quantiles of 97.5 % and 80 % together; an interval has 3.92 of them.
    """
    return 2.80 / 3.92 * (interval.high - interval.low)


def cohen_kappa(a: Sequence[str], b: Sequence[str], resamples: int, seed: int) -> Interval | None:
    """Cohen's kappa of two raters over the same items: agreement beyond chance, 1 perfect, 0 chance, with a bootstrap.

    None if undefined: both raters gave the same single label to every item, so agreement by chance is 1.
    Resamples in which it is undefined are left out of the interval.

    Raises:
        ValueError: different lengths, or no items.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"needs the same items, at least one, from both raters; found {len(a)} and {len(b)}")
    names = sorted({*a, *b})
    first, second = (np.array([names.index(label) for label in labels]) for labels in (a, b))
    value = _kappa(first, second, len(names))
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(first), len(first)) for _ in range(resamples))
    drawn = [k for rows in draws if (k := _kappa(first[rows], second[rows], len(names))) is not None]
    low, high = np.quantile(drawn or [value], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(first))


def _kappa(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], labels: int) -> float | None:
    table = np.bincount(a * labels + b, minlength=labels * labels).reshape(labels, labels) / len(a)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return None if chance >= 1 - 1e-12 else (float(np.trace(table)) - chance) / (1 - chance)


def _finite(values: Values) -> npt.NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"needs one number per item and at least one item, found shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(f"{int((~np.isfinite(sample)).sum())} of {len(sample)} values are not finite numbers")
    return sample


def _paired(a: Values, b: Values) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    first, second = _finite(a), _finite(b)
    if len(first) != len(second):
        raise ValueError(f"paired values must be over the same items, found {len(first)} and {len(second)}")
    return first, second


def _resampled_means(
    sample: npt.NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of ``resamples`` draws with replacement, (resamples,), with a bounded number of draws in memory."""
    rows = max(1, _MAX_DRAWS_IN_MEMORY // len(sample))
    means = [
        sample[rng.integers(0, len(sample), size=(min(rows, resamples - done), len(sample)))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(means)
