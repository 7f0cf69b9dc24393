"""Selectors that pick one of n answers, and the expected grade of the picked answer (paper, best of N).

The order of an item's N answers is arbitrary, so a curve over the first n of them would be noisy. Each value here is
the mean over all subsets of n of the N answers: exact, or over sampled subsets for the majority vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_VOTE_ORDERS = 8
"""Random orders sampled for the majority vote, which has no closed form; each is used from every start position."""


def best_by_score(scores: Sequence[float | None], correct: Sequence[float], n: int) -> float:
    """Expected grade in [0, 1] of the best-scored of n answers drawn from these.

    Ties are broken at random. An answer without a score is picked only if none of the n has a score.
    """
    values = np.array([-np.inf if score is None else score for score in scores], dtype=np.float64)
    _, level = np.unique(-values, return_inverse=True)
    grades = np.asarray(correct, dtype=np.float64)
    # equally scored answers are equally likely to win: each gets their mean grade
    shared = (np.bincount(level, weights=grades) / np.bincount(level))[level]
    order = np.argsort(level, kind="stable")
    total = len(grades)
    wins = [comb(total - 1 - index, n - 1) / comb(total, n) for index in range(total)]
    return float(np.dot(wins, shared[order]))


def any_right(correct: Sequence[float], n: int) -> float:
    """The oracle (pass@n): probability that at least one of n answers drawn from these is right."""
    wrong = sum(1 for grade in correct if not grade)
    return 1.0 - comb(wrong, n) / comb(len(correct), n)


def majority_vote(answers: Sequence[str], correct: Sequence[float], n: int, rng: np.random.Generator) -> float:
    """Expected grade of the most frequent of n answers drawn from these. Ties are broken at random.

    Args:
        answers: normalised, so that equal answers are the same string; boxes agree only if equal to the pixel.
        correct: grade of each answer.
        rng: samples the subsets.
    """
    total = len(answers)
    orders = rng.permuted(np.tile(np.arange(total), (_VOTE_ORDERS, 1)), axis=1)
    windows = (np.arange(total)[:, None] + np.arange(n)) % total  # every answer is drawn equally often
    drawn = orders[:, windows].reshape(_VOTE_ORDERS * total, n)
    _, kinds = np.unique(np.asarray(answers), return_inverse=True)
    drawn_kinds = kinds[drawn]
    votes = (drawn_kinds[:, :, None] == drawn_kinds[:, None, :]).sum(axis=2)
    # argmax takes the first of equal counts; the order is random, so ties are broken at random
    winners = drawn[np.arange(len(drawn)), votes.argmax(axis=1)]
    return float(np.asarray(correct, dtype=np.float64)[winners].mean())


def random_pick(correct: Sequence[float]) -> float:
    """Expected grade of an answer drawn at random, for any n."""
    return float(np.mean(correct))
