"""Selectors that pick one of n answers, and the expected grade of the picked answer (paper, best of N).

The order of an item's N answers is arbitrary, so a curve over the first n of them would be noisy. Each value here is
the mean over all subsets of n of the N answers: exact, or over sampled subsets for the vote of boxes. Tied answers are
equally likely to be picked, so a value never depends on the order of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from rsqa_pipeline.boxes import MIN_IOU, iou, read_one_box

SELECTORS = ("score_model", "clip_score", "mean_log_probability", "majority_vote", "random", "oracle")
SCORERS = ("score_model", "clip_score", "mean_log_probability")
"""Selectors that pick the answer with the highest score."""

Grades = Mapping[tuple[str, int], Sequence[float | None]]
"""(selector, n) -> expected value of the picked answer of each item, in the order of the items; None without a pick."""

Floats = npt.NDArray[np.float64]

_MAX_SUBSETS = 1024
"""Subsets of boxes that are enumerated; where there are more, as many are sampled."""


def best_by_score(scores: Sequence[float | None], correct: Sequence[float], n: int) -> float | None:
    """Expected grade of the best-scored of n answers drawn from these, over the draws that hold a scored answer.

    An answer without a score is never picked. None if no answer has a score.
    """
    scored = [index for index, score in enumerate(scores) if score is not None]
    if not scored:
        return None
    values = np.array([scores[index] for index in scored], dtype=np.float64)
    grades = np.asarray(correct, dtype=np.float64)[scored]
    _, level = np.unique(-values, return_inverse=True)
    # equally scored answers are equally likely to win: each gets their mean grade
    shared = (np.bincount(level, weights=grades) / np.bincount(level))[level]
    order = np.argsort(level, kind="stable")
    total = len(scores)
    wins = np.array([comb(total - 1 - index, n - 1) / comb(total, n) for index in range(len(scored))])
    return float(np.dot(wins, shared[order]) / wins.sum())


def no_pick(scores: Sequence[float | None], n: int) -> float:
    """Probability that none of n answers drawn from these has a score."""
    return comb(sum(score is None for score in scores), n) / comb(len(scores), n)


def best_grade(correct: Sequence[float], n: int) -> float:
    """The oracle: expected best grade of n answers drawn from these; pass@n where they are right or wrong."""
    best = best_by_score(correct, correct, n)
    assert best is not None  # every answer has a grade
    return best


def distinct_tokens(answers: Sequence[str | None], tokens: Sequence[int], n: int) -> float:
    """Expected tokens of the different answers among n drawn from these: a scorer reads equal answers once.

    Args:
        answers: None for one that is not read.
        tokens: of each answer, the same for equal ones.
    """
    counts = {text: (answers.count(text), of_text) for text, of_text in zip(answers, tokens, strict=True)}
    total, draws = len(answers), comb(len(answers), n)
    return sum(
        of_text * (1 - comb(total - copies, n) / draws)
        for text, (copies, of_text) in counts.items()
        if text is not None
    )


def majority_vote(answers: Sequence[str], correct: Sequence[float], n: int) -> float:
    """Expected grade of the most frequent of n answers drawn from these, exact over all subsets.

    For each number of votes that can win, it counts the draws in which some kinds of answer have that many votes and
    the others have fewer.

    Args:
        answers: normalised, so that equal answers are the same string.
        correct: grade of each answer.
    """
    _, kinds = np.unique(np.asarray(answers), return_inverse=True)
    sizes = np.bincount(kinds)
    grades = np.bincount(kinds, weights=np.asarray(correct, dtype=np.float64)) / sizes
    expected = 0.0
    for votes in range(1, min(n, int(sizes.max())) + 1):
        ties = n // votes
        ways, graded = np.zeros((n + 1, ties + 1)), np.zeros((n + 1, ties + 1))  # (answers drawn, kinds that tie)
        ways[0, 0] = 1.0
        for size, grade in zip(sizes.tolist(), grades.tolist(), strict=True):
            next_ways, next_graded = np.zeros_like(ways), np.zeros_like(graded)
            for drawn in range(min(size, votes - 1) + 1):
                next_ways[drawn:] += comb(size, drawn) * ways[: n + 1 - drawn]
                next_graded[drawn:] += comb(size, drawn) * graded[: n + 1 - drawn]
            if size >= votes:
                times = comb(size, votes)
                next_ways[votes:, 1:] += times * ways[: n + 1 - votes, :-1]
                next_graded[votes:, 1:] += times * (graded + grade * ways)[: n + 1 - votes, :-1]
            ways, graded = next_ways, next_graded
        expected += float(sum(graded[n, tied] / tied for tied in range(1, ties + 1)))
    return expected / comb(len(answers), n)


def majority_box(answers: Sequence[str], correct: Sequence[float], n: int, seed: int) -> float:
    """Expected grade of the box that most of n drawn boxes agree with, at an IoU of at least `MIN_IOU`.

    Among boxes with equally many votes the one with the largest sum of IoUs wins. A text without exactly one box has
    no vote and is picked only if no drawn text has a box.

    Args:
        answers: texts of the answers.
        correct: grade of each answer.
        seed: samples the subsets where there are too many to enumerate.
    """
    order = sorted(range(len(answers)), key=lambda index: (answers[index], correct[index]))
    grades = np.asarray(correct, dtype=np.float64)[order]
    boxes = [read_one_box(answers[index]) for index in order]
    overlap = np.array([[iou(a, b) if a and b else 0.0 for b in boxes] for a in boxes])
    drawn = _subsets(len(answers), n, seed)
    # a sum of IoUs is at most n, so it only decides between equal votes; rounded, so that equal sums tie
    support = drawn @ ((overlap >= MIN_IOU) * (n + 1.0)) + np.round(drawn @ overlap, 9)
    support[~drawn] = -1.0
    winners = np.isclose(support, support.max(axis=1, keepdims=True), rtol=0, atol=1e-8)
    return float(np.mean((winners @ grades) / winners.sum(axis=1)))


def random_pick(correct: Sequence[float]) -> float:
    """Expected grade of an answer drawn at random, for any n."""
    return float(np.mean(correct))


def _subsets(total: int, n: int, seed: int) -> npt.NDArray[np.bool_]:
    """(subsets, total): which answers each subset holds; all subsets of n, or `_MAX_SUBSETS` random ones."""
    if comb(total, n) <= _MAX_SUBSETS:
        chosen = np.array(list(combinations(range(total), n)))
    else:
        rng = np.random.default_rng(seed)
        chosen = rng.permuted(np.tile(np.arange(total), (_MAX_SUBSETS, 1)), axis=1)[:, :n]
    drawn = np.zeros((len(chosen), total), dtype=np.bool_)
    np.put_along_axis(drawn, chosen, values=True, axis=1)
    return drawn
