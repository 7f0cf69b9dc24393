"""How much of the way from a random pick to the oracle a selector goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsqa_pipeline.benchmarks.selectors import Floats
from rsqa_pipeline.statistics import CONFIDENCE, Interval

_NO_GAP = 1e-9


def gap_share(
    grades: Floats,
    floor: Floats,
    ceiling: Floats,
    resamples: int,
    seed: int,
    images: Sequence[str],
) -> Interval | None:
    """Mean gain over the floor as a share of the mean gap, with a percentile bootstrap over images.

    A resample draws images, with all of their items, and its own ratio: both parts of it vary. One without a
    gap has no ratio and is left out.

    Args:
        grades: (items,) of the selector.
        floor: of a random pick of the same items.
        ceiling: of the oracle.
        images: image of each item.

    Returns:
        The share, at most 1, below 0 for a selector that is worse than a random pick; None where there is no gap.
    """
    gain, gap = grades - floor, ceiling - floor
    if gap.mean() <= _NO_GAP:
        return None
    of_image = np.unique(list(images), return_inverse=True)[1]
    gains, gaps = np.bincount(of_image, weights=gain), np.bincount(of_image, weights=gap)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(gaps), len(gaps))
        if (whole := gaps[drawn].sum()) > _NO_GAP * len(gaps):
            shares.append(gains[drawn].sum() / whole)
    value = float(gain.sum() / gap.sum())
    low, high = np.quantile(shares or [value], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(gain))
