"""Verdicts on the claims, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rsqa_pipeline.compared import Compared
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.report.claims import claims_of

COMPARED = Compared(
    "best",
    {
        name: SubsetRule(selector=selector)
        for name, selector in (
            ("everything", "all"),
            ("drawn", "random"),
            ("best", "score_model"),
            ("bound", "oracle"),
            ("right", "clean"),
        )
    },
)
WON = {("best", "base"): (0.1, 0.2), ("best", "everything"): (0.08, 0.12), ("best", "drawn"): (0.01, 0.05)}
OTHERS = {("everything", "base"): (-0.02, 0.04), ("bound", "everything"): (0.05, 0.15), ("best", "bound"): (-0.3, -0.1)}


def table(bounds: dict[tuple[str, str], tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {"task": task, "model": model, "baseline": baseline, "difference": (low + high) / 2, "low": low, "high": high}
        for (model, baseline), (low, high) in bounds.items()
        for task in ("count", "all_tasks")
    ]


def verdicts(bounds: dict[tuple[str, str], tuple[float, float]]) -> list[str]:
    return [claim.verdict for claim in claims_of(table(bounds), COMPARED)]


def test_every_interval_above_0_is_go_and_the_bounds_are_no_rivals() -> None:
    claims = claims_of(table(WON | OTHERS), COMPARED)
    assert [claim.verdict for claim in claims] == ["GO", "INCONCLUSIVE", "GO"]
    assert [list(claim.differences) for claim in claims] == [
        [("best", "base"), ("best", "everything"), ("best", "drawn")],
        [("everything", "base")],
        [("best", "everything"), ("bound", "everything")],
    ]
    difference = claims[0].differences["best", "base"]
    assert difference is not None and difference.value == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({("best", "drawn"): (-0.01, 0.05)}, ["INCONCLUSIVE", "INCONCLUSIVE", "GO"]),
        ({("best", "drawn"): (-0.05, -0.01)}, ["NO-GO", "INCONCLUSIVE", "GO"]),
        ({("everything", "base"): (0.01, 0.04)}, ["GO", "GO", "GO"]),
        ({("everything", "base"): (-0.04, -0.01)}, ["GO", "NO-GO", "GO"]),
        # .10 of .15 is less than 70 %
        ({("bound", "everything"): (0.14, 0.16)}, ["GO", "INCONCLUSIVE", "NO-GO"]),
        ({("bound", "everything"): (-0.01, 0.16)}, ["GO", "INCONCLUSIVE", "INCONCLUSIVE"]),
    ],
)
def test_the_rule(changed: dict[tuple[str, str], tuple[float, float]], wanted: list[str]) -> None:
    assert verdicts(WON | OTHERS | changed) == wanted


def test_what_was_not_compared_is_not_measured() -> None:
    assert verdicts({("best", "base"): (0.1, 0.2)}) == ["not measured"] * 3
    assert verdicts({}) == ["not measured"] * 3


def test_another_rule_on_the_same_scores_is_a_claim_of_its_own_and_no_rival() -> None:
    rules = {**COMPARED.rules, "by_class": SubsetRule(selector="score_model", per="scene_class")}
    won = {("by_class", rival): (-0.2, -0.1) for rival in ("base", "everything", "drawn", "best")}
    claims = claims_of(table(WON | OTHERS | won), Compared("best", rules))
    assert [claim.verdict for claim in claims] == ["GO", "NO-GO", "INCONCLUSIVE", "GO", "NO-GO"]
    assert list(claims[1].differences) == [("by_class", "base"), ("by_class", "everything"), ("by_class", "drawn")]
