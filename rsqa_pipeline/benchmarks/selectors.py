"""Picks one of n answers, and what each way of picking is worth (paper, best of N).

The N answers of an item are one draw of its N!; a curve over the first n of them would be noisy. Each value
here is the mean over all subsets of n answers out of the N (exact; for the majority vote over drawn subsets).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_VOTE_ORDERS = 8
"""Random orders drawn for the majority vote, which has no closed form; each is used from every starting place."""


def best_by_score(scores: Sequence[float | None], correct: Sequence[float], n: int) -> float:
    """Expected mark in [0, 1] of the best-scored of n answers drawn from these.

    Equal scores are decided by lot. An answer without a score is taken only where no other of the n has one.
    """
    values = np.array([-np.inf if score is None else score for score in scores], dtype=np.float64)
    _, level = np.unique(-values, return_inverse=True)
    marks = np.asarray(correct, dtype=np.float64)
    # by symmetry, each of several equally scored answers is as likely to win: all get their common mean
    shared = (np.bincount(level, weights=marks) / np.bincount(level))[level]
    order = np.argsort(level, kind="stable")
    total = len(marks)
    wins = [comb(total - 1 - place, n - 1) / comb(total, n) for place in range(total)]
    return float(np.dot(wins, shared[order]))


def any_right(correct: Sequence[float], n: int) -> float:
    """The oracle (pass@n): chance that at least one of n answers drawn from these is right."""
    wrong = sum(1 for mark in correct if not mark)
    return 1.0 - comb(wrong, n) / comb(len(correct), n)


def majority_vote(answers: Sequence[str], correct: Sequence[float], n: int, rng: np.random.Generator) -> float:
    """Expected mark of the most frequent of n answers drawn from these, equally frequent ones decided by lot.

    Args:
        answers: in the form in which equal answers are the same string; boxes agree only to the pixel.
        correct: mark of each answer.
        rng: draws the subsets.
    """
    total = len(answers)
    orders = rng.permuted(np.tile(np.arange(total), (_VOTE_ORDERS, 1)), axis=1)
    turned = (np.arange(total)[:, None] + np.arange(n)) % total  # so that every answer is drawn equally often
    drawn = orders[:, turned].reshape(_VOTE_ORDERS * total, n)
    _, kinds = np.unique(np.asarray(answers), return_inverse=True)
    said = kinds[drawn]
    votes = (said[:, :, None] == said[:, None, :]).sum(axis=2)
    # argmax takes the first of equal counts, and the draw's order is random: that is the lot
    winners = drawn[np.arange(len(drawn)), votes.argmax(axis=1)]
    return float(np.asarray(correct, dtype=np.float64)[winners].mean())


def random_pick(correct: Sequence[float]) -> float:
    """Expected mark of an answer drawn blindly, whatever n."""
    return float(np.mean(correct))
