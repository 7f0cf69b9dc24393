"""Rewards against hand-computed values and the released code's own cases."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.rl_policy.rewards import (
    combined_reward,
    exact_match_reward,
    format_reward,
    iou_reward,
    open_ended_reward,
    read_answer,
)

SHARED = Path(os.environ.get("RSQA_SHARED", Path(__file__).resolve().parents[3] / "shared"))
CASES = SHARED / "parity" / "reward_cases.json"

DEPARTURES = {
    "<think>the runway is long</think> <answer>[0.1,0.1,0.5,0.5]</answer>": (
        0.3,
        "boxes are always pixels: a box of less than a pixel misses; released: numbers below 1 are fractions, 1.0",
    ),
    "<think>the runway is long</think> <answer>[10,10,50,50],[60,60,90,90]</answer>": (
        1.0,
        "several boxes are averaged; released: 1.35, above the maximum reward",
    ),
    "<think>the runway is long</think> <answer>two</answer>": (
        1.0,
        "number words are numbers; released: the letters differ, 0.3",
    ),
    "<think>the runway is long</think> <answer></answer>": (
        0.3,
        "an empty answer is wrong, whatever the reference; released: equal to an empty reference, 1.0",
    ),
    "<think>the runway is long</think> <answer>(10,10),(50,50)</answer>": (
        1.0,
        "boxes are read in every published form, in the reference as well; released: a miss",
    ),
    "<think>the runway is long</think> <answer><|box_start|>(10,10),(50,50)<|box_end|></answer>": (
        1.0,
        "boxes are read in every published form; released: a miss",
    ),
}
"""Deliberate departures from the released code: this project's value, and the reason."""


def overall(kind: str, completion: str, reference: str) -> tuple[float | None, float | None]:
    """(total, format) of one completion, combined as in training."""
    accuracy_of = {"em": exact_match_reward, "iou": iou_reward}[kind]
    answer = read_answer(completion)
    form = format_reward([completion])
    accuracy = accuracy_of([answer], [reference]) if answer is not None else [None]
    return combined_reward(form, accuracy, 0.3, 0.7)[0], form[0]


@pytest.mark.skipif(not CASES.is_file(), reason=f"the released code's reward cases are not at {CASES} (RSQA_SHARED)")
def test_matches_the_released_code_except_for_the_departures() -> None:
    departed = set()
    for case in json.loads(CASES.read_text()):
        text, released = case["prediction"], case["reference"]
        ours = DEPARTURES.get(text)
        if ours is None:
            total, form = overall(case["type"], text, case["ground_truth"])
            assert total == pytest.approx(released["overall"]), case
            assert form == released.get("format_score", released.get("format")), case
            continue
        departed.add(text)
        total, _ = overall(case["type"], text, case["ground_truth"])
        assert total == pytest.approx(ours[0]), case
        assert total != pytest.approx(released["overall"]), f"not a departure any more: {case}"
    assert departed == set(DEPARTURES)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a long runway</think><answer> airport </answer>", "airport"),
        ("  <think>a\nb</think>\n\n<answer>x\ny</answer>\n", "x\ny"),
        ("<think></think><answer></answer>", ""),
        ("<answer>airport</answer>", None),
        ("<think>a</think> so <answer>b</answer>", None),
        ("<think>a</think><answer>b</answer> indeed", None),
        ("<think>a</think><answer>b</answer><answer>c</answer>", None),
        ("<think>a<think>b</think><answer>c</answer>", None),
        ("<answer>b</answer><think>a</think>", None),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", None),
        ("", None),
    ],
)
def test_format_is_one_think_and_one_answer(completion: str, answer: str | None) -> None:
    assert read_answer(completion) == answer
    assert format_reward([completion]) == [0.0 if answer is None else 1.0]


def test_exact_match_requires_equality_not_containment() -> None:
    answers = ["Airport.", " airport ", "an airport", "", "air", "2", "two"]
    assert exact_match_reward(answers, ["airport"] * 5 + ["12", "2"]) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("height", "grade"), [(50, 0.0), (51, 0.5), (60, 0.5), (61, 0.6), (71, 0.7), (80, 0.7), (81, 1.0), (100, 1.0)]
)
def test_iou_grades_exclude_their_threshold(height: int, grade: float) -> None:
    # a box of 10 x height inside one of 10 x 100 has IoU height / 100
    assert iou_reward([f"[0, 0, 10, {height}]"], ["[0, 0, 10, 100]"]) == [grade]


def test_several_boxes_are_matched_and_averaged() -> None:
    reference = "[0,0,10,100] [50,0,60,100]"
    assert iou_reward(["[50,0,60,100], [0,0,10,65]"], [reference]) == [pytest.approx((1.0 + 0.6) / 2)]
    assert iou_reward(["[0,0,10,100]", "", "[0,0,10,100] [50,0,60,100] [0,0,1,1]"], [reference] * 3) == [0.0] * 3


def test_a_reference_without_a_box_raises() -> None:
    with pytest.raises(DataError, match="has no box"):
        iou_reward(["[0,0,1,1]"], ["upper left"])


def test_open_ended_reward_is_positive_only_above_the_reference() -> None:
    rewards = open_ended_reward([3.0, 1.0, 0.0, None, 2.0], [1.0, 1.0, 1.0, 1.0, None], beta=0.2)
    assert rewards == [pytest.approx(1 - math.exp(-0.4)), 0.0, 0.0, None, None]


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-50, 50), st.floats(0.01, 1.0))
def test_the_graded_reward_orders_answers_by_score_and_halves_at_the_reference(
    scores: list[float], reference: float, beta: float
) -> None:
    rewards = open_ended_reward(scores, [reference] * len(scores), beta, "graded")
    assert all(reward is not None and 0.0 <= reward <= 1.0 for reward in rewards)
    assert [score for _, score in sorted(zip(rewards, scores, strict=True))] == sorted(scores)
    assert open_ended_reward([reference, None], [reference, 1.0], beta, "graded") == [0.5, None]
    paper = open_ended_reward(scores, [reference] * len(scores), beta)
    for score, of_paper, graded in zip(scores, paper, rewards, strict=True):
        if score > reference:
            assert graded == pytest.approx(0.5 + (of_paper or 0.0) / 2)


def test_missing_is_never_zero() -> None:
    assert combined_reward([1.0, 0.0, 1.0, 1.0, None], [0.5, 1.0, None, 0.0, 1.0], 0.3, 0.7) == [
        pytest.approx(0.65),
        0.0,
        None,
        pytest.approx(0.3),
        None,
    ]
