"""The frozen texts: a changed prompt is a different policy, so the snapshot must be changed on purpose too."""

from __future__ import annotations

import json
from pathlib import Path

from rsqa_pipeline.rl_policy.reasoning import THOUGHTS, reasoned_answer, reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "reasoning.json"


def test_texts_match_the_snapshot() -> None:
    texts = {
        "prompt": reasoning_prompt([{"role": "user", "content": "How many ships are there?"}]),
        "answers": {task: reasoned_answer(task, "ANSWER") for task in (*THOUGHTS, "another task")},
    }
    assert texts == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_only_the_last_question_asks_for_reasoning() -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    prompt = reasoning_prompt(turns)
    assert prompt[:2] == turns[:2]
    assert prompt[2]["content"].startswith("c Think inside")
    assert turns[2]["content"] == "c"


def test_reasoned_answers_have_the_rewarded_format() -> None:
    for task in (*THOUGHTS, "another task"):
        assert read_answer(reasoned_answer(task, "two tanks")) == "two tanks"
