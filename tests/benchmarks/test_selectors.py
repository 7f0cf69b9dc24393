"""Expected grades of selectors: closed forms against an enumeration of all subsets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.benchmarks.selectors import (
    best_by_score,
    best_grade,
    distinct_tokens,
    majority_box,
    majority_vote,
    no_pick,
    random_pick,
)

GRADED = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=7)


def naive_best(scores: list[float | None], correct: list[float], n: int) -> float:
    """Mean grade of the best-scored answers over all subsets of n that hold a scored one."""
    grades = []
    for subset in combinations(range(len(scores)), n):
        known = [score for index in subset if (score := scores[index]) is not None]
        if known:
            grades.append(np.mean([correct[index] for index in subset if scores[index] == max(known)]))
    return float(np.mean(grades))


def naive_vote(answers: list[str], correct: list[float], n: int) -> float:
    """Mean over all subsets of n; kinds that tie are equally likely, and so are the drawn answers of a kind."""
    grades = []
    for subset in combinations(range(len(answers)), n):
        said = [answers[index] for index in subset]
        most = max(said.count(text) for text in said)
        grades.append(np.mean([correct[i] for i in subset if said.count(answers[i]) == most]))
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
    assert best_by_score([None, None], [0.0, 1.0], 2) is None
    assert best_by_score([None, -9.0], [1.0, 0.0], 1) == 0.0  # an answer without a score is never picked


def test_draws_without_a_pick_are_counted() -> None:
    assert no_pick([None, 1.0, None], 1) == pytest.approx(2 / 3)
    assert no_pick([None, 1.0, None], 2) == pytest.approx(1 / 3)
    assert no_pick([None, None], 2) == 1.0
    assert no_pick([0.0, 1.0], 1) == 0.0  # a score of 0 is a score


@pytest.mark.parametrize("correct", [[0.0, 1.0, 0.0, 1.0], [0.2, 0.7, 0.7, 0.0]])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_oracle_is_the_mean_best_grade_of_all_subsets(correct: list[float], n: int) -> None:
    expected = np.mean([max(correct[index] for index in subset) for subset in combinations(range(4), n)])
    assert best_grade(correct, n) == pytest.approx(float(expected))


@given(st.lists(st.sampled_from(["a", "bb", "ccc", None]), min_size=1, max_size=7), st.data())
def test_distinct_tokens_are_the_mean_over_all_subsets(answers: list[str | None], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(answers)))
    tokens = [len(text or "") for text in answers]
    naive = [
        sum(len(text or "") for text in {answers[i] for i in drawn}) for drawn in combinations(range(len(answers)), n)
    ]
    assert distinct_tokens(answers, tokens, n) == pytest.approx(float(np.mean(naive)))


def test_64_answers_are_exact() -> None:
    """Binomial coefficients of 64 exceed a float's digits; the values must not."""
    correct = [1.0] + [0.0] * 63
    assert best_grade(correct, 64) == 1.0
    assert best_grade(correct, 32) == pytest.approx(0.5)
    assert majority_vote(["right"] + ["wrong"] * 63, correct, 32) == 0.0
    assert majority_vote([str(index) for index in range(64)], correct, 32) == pytest.approx(1 / 64)
    assert distinct_tokens(["right"] * 64, [3] * 64, 32) == pytest.approx(3.0)


def test_majority_vote_by_hand() -> None:
    assert majority_vote(["3", "4", "3"], [1.0, 0.0, 1.0], 3) == 1.0
    assert majority_vote(["3", "4", "4"], [1.0, 0.0, 0.0], 3) == 0.0
    assert majority_vote(["3", "4"], [1.0, 0.0], 2) == 0.5


@given(GRADED, st.data())
def test_majority_vote_is_the_mean_over_all_subsets(graded: list[tuple[str, float]], data: st.DataObject) -> None:
    grade_of = dict(graded)  # answers of a kind have one grade
    answers = [text for text, _ in graded]
    correct = [grade_of[text] for text in answers]
    n = data.draw(st.integers(1, len(answers)))
    assert majority_vote(answers, correct, n) == pytest.approx(naive_vote(answers, correct, n))
    order = data.draw(st.permutations(range(len(answers))))
    again = majority_vote([answers[i] for i in order], [correct[i] for i in order], n)
    assert again == pytest.approx(majority_vote(answers, correct, n))


def test_boxes_vote_by_overlap_by_hand() -> None:
    near = ["[0, 0, 10, 10]", "[0, 0, 10, 9]", "[50, 50, 60, 60]"]  # IoU 0.9, and none
    assert majority_box(near, [1.0, 1.0, 0.0], 3, seed=0) == 1.0
    assert majority_box(near, [1.0, 1.0, 0.0], 2, seed=0) == pytest.approx((1 + 0.5 + 0.5) / 3)
    middle = ["[0, 0, 10, 10]", "[0, 0, 10, 8]", "[0, 0, 10, 6]"]  # the middle one overlaps most
    assert majority_box(middle, [0.0, 1.0, 0.0], 3, seed=0) == 1.0
    assert majority_box(["no box", "none", "[0, 0, 9, 9]"], [0.0, 0.0, 1.0], 3, seed=0) == 1.0
    assert majority_box(["no box", "none"], [0.0, 1.0], 2, seed=0) == 0.5


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 1.0])), min_size=1, max_size=14), st.data())
def test_order_of_boxes_does_not_matter(drawn: list[tuple[int, float]], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(drawn)))
    values = [
        majority_box([f"[{x}, 0, {x + 10}, 10]" for x, _ in boxes], [grade for _, grade in boxes], n, seed=0)
        for boxes in (drawn, data.draw(st.permutations(drawn)))
    ]
    assert values[0] == pytest.approx(values[1])


def test_random_pick_is_the_mean() -> None:
    assert random_pick([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_selectors_agree_for_one_answer() -> None:
    correct = [1.0, 0.0, 0.0, 1.0]
    mean = random_pick(correct)
    assert best_by_score([4.0, 3.0, 2.0, 1.0], correct, 1) == pytest.approx(mean)
    assert best_grade(correct, 1) == pytest.approx(mean)
    assert majority_vote(list("abcd"), correct, 1) == pytest.approx(mean)
    assert majority_box([f"[{x}, 0, 99, 9]" for x in range(4)], correct, 1, seed=0) == pytest.approx(mean)
