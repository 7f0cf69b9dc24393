"""Faults never become rewards: unreadable images and scores that are not finite give None, whatever else is in the
batch; and no trick with boxes pays."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.boxes import iou
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.records import Message
from rsqa_pipeline.rl_policy.policy_reward import measure
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.rewards import format_reward, iou_reward
from rsqa_pipeline.score_model.scoring.scorer import Scorer

CALLS = int(os.environ.get("RSQA_REWARD_FAULTS", "400"))
ANSWERS = ("three white ships", "3", "[4, 4, 20, 12]", "", "[4, 4, 20", "nan", "ships " * 40)
REFERENCES = {"open": "three white ships", "count": "3", "grounding": "[4, 4, 20, 12]"}

side = st.tuples(st.integers(0, 99), st.integers(1, 60)).map(lambda pair: (pair[0], pair[0] + pair[1]))
boxes = st.tuples(side, side).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def written(*of: tuple[int, int, int, int]) -> str:
    return ", ".join(str(list(box)) for box in of)


def test_no_fault_becomes_a_number(inputs: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    """Real scorers, one of which has lost its head's weights; `RSQA_REWARD_FAULTS` calls."""
    images = {name: str(tmp_path / f"{name}.png") for name in ("sound", "broken", "cut", "missing")}
    Image.new("RGB", (64, 64), "red").save(images["sound"])
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "sound.png").read_bytes()[:60])
    compute = Compute(device="cpu")
    scorers = [Scorer.load(inputs["score_model"] / "model", compute) for _ in range(2)]
    torch.nn.init.constant_(scorers[1].model.head.weight, math.nan)
    drawn = random.Random(0)
    made, faults = 0, 0
    while made < CALLS:
        calls = [
            (
                drawn.choice(list(images)),
                drawn.choice(list(REFERENCES)),
                drawn.choice(["<think>so</think><answer>{}</answer>", "<answer>{}</answer>", "{}"]).format(
                    drawn.choice(ANSWERS)
                ),
            )
            for _ in range(min(200, CALLS - made))
        ]
        prompts = [
            PolicyPrompt("s", image, images[image], [Message(role="user", content="?")], task, REFERENCES[task], 1.0)
            for image, task, _ in calls
        ]
        lost = drawn.random() < 0.3
        found = measure([text for *_, text in calls], prompts, scorers[lost], settings.rl_policy)
        for (image, task, text), total, accuracy in zip(calls, found.total, found.accuracy, strict=True):
            if format_reward([text]) == [0.0]:
                assert total == accuracy == 0.0, "without the format there is no reward, whatever the image"
            elif task == "open" and (lost or image != "sound"):
                assert total is None and accuracy is None, (image, text)
                faults += 1
            else:
                assert total is not None and 0.0 <= total <= 1.0 and math.isfinite(total)
        made += len(calls)
    assert faults > CALLS / 20


@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, min_size=1, max_size=4), st.randoms())
def test_the_order_of_boxes_does_not_matter_and_the_reward_is_bounded(
    answer: list[tuple[int, int, int, int]], reference: list[tuple[int, int, int, int]], shuffled: random.Random
) -> None:
    (reward,) = iou_reward([written(*answer)], [written(*reference)])
    assert reward is not None and 0.0 <= reward <= 1.0
    for of in (answer, reference):
        shuffled.shuffle(of)
    assert iou_reward([written(*answer)], [written(*reference)]) == [reward]


@given(boxes, boxes, boxes)
def test_a_larger_iou_never_earns_less(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int], reference: tuple[int, int, int, int]
) -> None:
    rewards = iou_reward([written(one), written(other)], [written(reference)] * 2)
    overlaps = iou(one, reference), iou(other, reference)
    if overlaps[0] > overlaps[1]:
        rewards.reverse()
    assert rewards[0] is not None and rewards[1] is not None and rewards[0] <= rewards[1]


@given(st.lists(boxes, min_size=1, max_size=3), st.lists(boxes, min_size=1, max_size=8))
def test_more_boxes_than_asked_for_earn_nothing(
    reference: list[tuple[int, int, int, int]], more: list[tuple[int, int, int, int]]
) -> None:
    assert iou_reward([written(*reference)], [written(*reference)]) == [1.0]
    assert iou_reward([written(*reference, *more)], [written(*reference)]) == [0.0]
