"""What a selector is worth: closed forms against every subset written out."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.selectors import any_right, best_by_score, majority_vote, random_pick


def naive_best(scores: list[float | None], correct: list[float], n: int) -> float:
    """Mean over every subset of n of the mean mark of its best-scored answers."""
    marks = []
    for subset in combinations(range(len(scores)), n):
        values = [-np.inf if scores[place] is None else scores[place] for place in subset]
        best = [correct[place] for place, value in zip(subset, values, strict=True) if value == max(values)]
        marks.append(np.mean(best))
    return float(np.mean(marks))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_by_score_is_the_mean_over_all_subsets(n: int) -> None:
    scores: list[float | None] = [0.3, None, 1.2, 0.3, -4.0, None]
    correct = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert best_by_score(scores, correct, n) == pytest.approx(naive_best(scores, correct, n))


def test_best_by_score_by_hand() -> None:
    assert best_by_score([1.0, 2.0], [0.0, 1.0], 1) == 0.5
    assert best_by_score([1.0, 2.0], [0.0, 1.0], 2) == 1.0
    assert best_by_score([5.0, 5.0], [0.0, 1.0], 2) == 0.5  # a tie is decided by lot
    assert best_by_score([None, None], [0.0, 1.0], 2) == 0.5
    assert best_by_score([None, -9.0], [1.0, 0.0], 2) == 0.0  # a missing score never beats a score


@pytest.mark.parametrize("n", [1, 2, 4])
def test_oracle_is_the_share_of_subsets_with_a_right_answer(n: int) -> None:
    correct = [0.0, 1.0, 0.0, 1.0]
    expected = np.mean([max(correct[place] for place in subset) for subset in combinations(range(4), n)])
    assert any_right(correct, n) == pytest.approx(float(expected))


def test_majority_vote() -> None:
    rng = np.random.default_rng(0)
    assert majority_vote(["3", "4", "3"], [1.0, 0.0, 1.0], 3, rng) == 1.0
    assert majority_vote(["3", "4", "4"], [1.0, 0.0, 0.0], 3, rng) == 0.0
    answers, correct = ["a", "b", "b", "c"], [1.0, 0.0, 0.0, 1.0]
    orders = [order[:3] for order in permutations(range(4))]
    marks = []
    for order in orders:
        said = [answers[place] for place in order]
        marks.append(correct[order[max(range(3), key=lambda place: (said.count(said[place]), -place))]])
    draws = [majority_vote(answers, correct, 3, rng) for _ in range(60)]
    assert float(np.mean(draws)) == pytest.approx(float(np.mean(marks)), abs=0.02)


def test_random_pick_is_the_mean() -> None:
    assert random_pick([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_selectors_agree_where_there_is_nothing_to_choose() -> None:
    rng, correct = np.random.default_rng(0), [1.0, 0.0, 0.0, 1.0]
    mean = random_pick(correct)
    assert best_by_score([4.0, 3.0, 2.0, 1.0], correct, 1) == pytest.approx(mean)
    assert any_right(correct, 1) == pytest.approx(mean)
    assert majority_vote(list("abcd"), correct, 1, rng) == pytest.approx(mean)
