"""Expected grades of selectors: closed forms against an enumeration of all subsets."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.selectors import any_right, best_by_score, majority_vote, random_pick


def naive_best(scores: list[float | None], correct: list[float], n: int) -> float:
    """Mean over all subsets of n of the mean grade of the best-scored answers."""
    grades = []
    for subset in combinations(range(len(scores)), n):
        values = [-np.inf if scores[index] is None else scores[index] for index in subset]
        best = [correct[index] for index, value in zip(subset, values, strict=True) if value == max(values)]
        grades.append(np.mean(best))
    return float(np.mean(grades))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_by_score_is_the_mean_over_all_subsets(n: int) -> None:
    scores: list[float | None] = [0.3, None, 1.2, 0.3, -4.0, None]
    correct = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert best_by_score(scores, correct, n) == pytest.approx(naive_best(scores, correct, n))


def test_best_by_score_by_hand() -> None:
    assert best_by_score([1.0, 2.0], [0.0, 1.0], 1) == 0.5
    assert best_by_score([1.0, 2.0], [0.0, 1.0], 2) == 1.0
    assert best_by_score([5.0, 5.0], [0.0, 1.0], 2) == 0.5  # a tie is broken at random
    assert best_by_score([None, None], [0.0, 1.0], 2) == 0.5
    assert best_by_score([None, -9.0], [1.0, 0.0], 2) == 0.0  # a missing score never beats a score


@pytest.mark.parametrize("n", [1, 2, 4])
def test_oracle_is_the_share_of_subsets_with_a_right_answer(n: int) -> None:
    correct = [0.0, 1.0, 0.0, 1.0]
    expected = np.mean([max(correct[index] for index in subset) for subset in combinations(range(4), n)])
    assert any_right(correct, n) == pytest.approx(float(expected))


def test_majority_vote() -> None:
    rng = np.random.default_rng(0)
    assert majority_vote(["3", "4", "3"], [1.0, 0.0, 1.0], 3, rng) == 1.0
    assert majority_vote(["3", "4", "4"], [1.0, 0.0, 0.0], 3, rng) == 0.0
    answers, correct = ["a", "b", "b", "c"], [1.0, 0.0, 0.0, 1.0]
    orders = [order[:3] for order in permutations(range(4))]
    grades = []
    for order in orders:
        said = [answers[index] for index in order]
        grades.append(correct[order[max(range(3), key=lambda index: (said.count(said[index]), -index))]])
    draws = [majority_vote(answers, correct, 3, rng) for _ in range(60)]
    assert float(np.mean(draws)) == pytest.approx(float(np.mean(grades)), abs=0.02)


def test_random_pick_is_the_mean() -> None:
    assert random_pick([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_selectors_agree_for_one_answer() -> None:
    rng, correct = np.random.default_rng(0), [1.0, 0.0, 0.0, 1.0]
    mean = random_pick(correct)
    assert best_by_score([4.0, 3.0, 2.0, 1.0], correct, 1) == pytest.approx(mean)
    assert any_right(correct, 1) == pytest.approx(mean)
    assert majority_vote(list("abcd"), correct, 1, rng) == pytest.approx(mean)
