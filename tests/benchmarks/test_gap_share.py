"""The share of the gap from a random pick to the oracle, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.gap_share import gap_share

IMAGES = ["a", "a", "b", "b", "c", "d"]


def test_by_hand() -> None:
    floor, ceiling = np.array([0.2, 0.2, 0.0, 0.4, 0.0, 0.5]), np.array([1.0, 0.2, 0.5, 0.4, 0.0, 1.0])
    share = gap_share(np.array([0.6, 0.2, 0.25, 0.4, 0.0, 0.75]), floor, ceiling, 200, 0, IMAGES)
    assert share is not None
    assert (share.value, share.low, share.high) == pytest.approx((0.5, 0.5, 0.5))  # half of each image's gap
    assert share.n == 6


def test_bounds_have_no_width_and_no_gap_has_no_share() -> None:
    floor, ceiling = np.array([0.2] * 6), np.array([1.0] * 6)
    for own, value in ((floor, 0.0), (ceiling, 1.0)):
        share = gap_share(own, floor, ceiling, 50, 0, IMAGES)
        assert share is not None and share.low == share.value == share.high == pytest.approx(value)
    assert gap_share(floor, floor, floor, 50, 0, IMAGES) is None


def test_the_interval_is_that_of_whole_images() -> None:
    """Against a plain bootstrap that repeats the items of each drawn image."""
    rng = np.random.default_rng(1)
    floor, ceiling = rng.uniform(0, 0.4, 6), rng.uniform(0.6, 1, 6)
    own = rng.uniform(floor, ceiling)
    share = gap_share(own, floor, ceiling, 4000, 3, IMAGES)
    names = sorted(set(IMAGES))
    ratios = []
    for _ in range(4000):
        drawn = [i for name in rng.choice(names, len(names)) for i, image in enumerate(IMAGES) if image == name]
        ratios.append((own[drawn] - floor[drawn]).mean() / (ceiling[drawn] - floor[drawn]).mean())
    assert share is not None
    assert share.value == pytest.approx((own - floor).mean() / (ceiling - floor).mean())
    assert (share.low, share.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.02)


def test_a_resample_without_a_gap_is_left_out() -> None:
    """Only image a has a gap: a resample without it has no ratio, all others the same one."""
    floor, ceiling = np.zeros(6), np.array([1.0, 1.0, 0, 0, 0, 0])
    share = gap_share(np.array([0.5, 0.0, 0, 0, 0, 0]), floor, ceiling, 200, 0, IMAGES)
    assert share is not None and (share.low, share.value, share.high) == (0.25, 0.25, 0.25)
