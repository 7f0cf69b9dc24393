"""The losses against hand-computed values, naive formulas and extreme scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.score_model.training.losses import bradley_terry, plackett_luce, ranking_loss

scores = st.lists(st.floats(-20, 20), min_size=2, max_size=5)


def test_bradley_terry_by_hand() -> None:
    # P = 1 / (1 + e^-1) = 0.731059 and 1 / (1 + e^2) = 0.119203; the mean of -log is (0.313262 + 2.126928) / 2
    loss = bradley_terry(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx(1.220095, abs=1e-5)


def test_a_tie_costs_log_2() -> None:
    assert bradley_terry(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_a_margin_is_subtracted_from_the_lead() -> None:
    # leads 2 and 0 minus margins 0.5 and 1: -log sigmoid(1.5) = 0.201413, -log sigmoid(-1) = 1.313262
    loss = bradley_terry(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([0.5, 1.0]))
    assert loss.item() == pytest.approx((0.201413 + 1.313262) / 2, abs=1e-5)


def test_rankings_read_their_own_scores() -> None:
    scores = torch.tensor([0.0, math.log(3), math.log(2)])
    pairs = ranking_loss(scores, torch.tensor([[1, 0], [2, 0]]), torch.tensor([2, 2]), torch.tensor([0.0, math.log(2)]))
    # P = 3/4, and 1/2 since the margin equals the lead
    assert pairs.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    lists = ranking_loss(scores, torch.tensor([[1, 2, 0], [1, 0, 0]]), torch.tensor([3, 2]))
    assert lists.item() == pytest.approx((math.log(3) + math.log(4 / 3)) / 2)


def test_plackett_luce_by_hand() -> None:
    # ranking of scores ln 3, ln 2, ln 1: P = 3/6 * 2/3 * 1/1 = 1/3
    ranked = torch.tensor([[math.log(3), math.log(2), 0.0]])
    assert plackett_luce(ranked).item() == pytest.approx(math.log(3))


@given(scores)
def test_plackett_luce_equals_the_naive_formula(values: list[float]) -> None:
    ranked = torch.tensor([values], dtype=torch.float64)
    naive = -sum(
        math.log(math.exp(value) / sum(math.exp(rest) for rest in values[index:])) for index, value in enumerate(values)
    )
    assert plackett_luce(ranked).item() == pytest.approx(naive, abs=1e-9)


@given(scores)
@settings(max_examples=30)
def test_probabilities_of_all_rankings_sum_to_one(values: list[float]) -> None:
    values = values[:4]
    rankings = torch.tensor(list(itertools.permutations(values)), dtype=torch.float64)
    total = sum(math.exp(-plackett_luce(ranking[None]).item()) for ranking in rankings)
    assert total == pytest.approx(1, abs=1e-9)


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_two_candidates_are_bradley_terry(chosen: float, rejected: float) -> None:
    pair = torch.tensor([[chosen, rejected]], dtype=torch.float64)
    assert plackett_luce(pair).item() == pytest.approx(bradley_terry(pair[:, 0], pair[:, 1]).item(), abs=1e-9)


@given(scores, st.floats(-1000, 1000))
def test_a_shift_of_all_scores_changes_nothing(values: list[float], shift: float) -> None:
    ranked = torch.tensor([values], dtype=torch.float64)
    assert plackett_luce(ranked + shift).item() == pytest.approx(plackett_luce(ranked).item(), abs=1e-6)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_extreme_gaps_stay_finite_with_gradient(gap: float) -> None:
    values = torch.tensor([[gap, 0.0, -gap]], requires_grad=True)
    loss = plackett_luce(values) + bradley_terry(values[:, 0], values[:, 2])
    loss.backward()
    assert torch.isfinite(loss) and values.grad is not None and torch.isfinite(values.grad).all()
    assert loss.item() == pytest.approx(max(0.0, -6 * gap + gap) if gap < 0 else 0.0, rel=0.2, abs=1e-3)


def test_short_lists_ignore_their_padding() -> None:
    ranked = torch.tensor([[2.0, 1.0, 99.0], [3.0, 2.0, 1.0]], requires_grad=True)
    loss = plackett_luce(ranked, counts=torch.tensor([2, 3]))
    separate = (plackett_luce(ranked[:1, :2]) + plackett_luce(ranked[1:])) / 2
    assert loss.item() == pytest.approx(separate.item())
    loss.backward()
    assert ranked.grad is not None and torch.isfinite(ranked.grad).all() and ranked.grad[0, 2] == 0
