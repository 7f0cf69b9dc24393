"""The VLM benchmark on a model behind a real HTTP server that speaks chat completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.reply_format import PLAIN, ReplyFormat
from rsqa_pipeline.benchmarks.results import Outcome
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.benchmarks.vlm_benchmark import evaluate_served
from rsqa_pipeline.profile import Boxes
from rsqa_pipeline.profile.preference_data import ChatServer, TextModel
from tests.preference_data.chat_double import Answer, ChatDouble, Seen


@pytest.fixture
def tasks(benchmark_sets: Path) -> TaskItems:
    return [(task, items) for task, items in read_items(benchmark_sets, load_tasks("vlm")) if task.name in NAMES]


NAMES = ("grounding", "presence")


def measure(
    double: ChatDouble, tasks: TaskItems, folder: Path, boxes: Boxes | None = None, **server: Any
) -> list[Outcome]:
    model = TextModel(model="qwen", server=ChatServer(url=double.url, **server))
    reply_format = ReplyFormat(PLAIN.prompt, PLAIN.read, 1, boxes)
    return evaluate_served("served", model, tasks, reply_format, 8, folder)


def marks(outcomes: list[Outcome], task: str) -> dict[str, float]:
    return {o.item_id: o.correct for o in outcomes if o.task == task and o.metric != "lenient_accuracy"}


def yes(seen: Seen, number: int) -> Answer:
    return Answer("(0,0),(250,250)" if "Where" in seen.prompt else "Yes.")


def test_replies_are_graded_and_never_asked_for_twice(tasks: TaskItems, tmp_path: Path) -> None:
    with ChatDouble(yes) as double:
        first = measure(double, tasks, tmp_path)
        body = double.seen[0].body
        assert len(double.seen) == 12
        assert measure(double, tasks, tmp_path) == first
        assert len(double.seen) == 12
    assert marks(first, "presence") == {f"presence-{n}": float(n % 2) for n in range(6)}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("qwen", 0.0, 8)
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/")


def test_boxes_are_read_in_the_declared_unit_and_a_mismatch_is_wrong(tasks: TaskItems, tmp_path: Path) -> None:
    """The images are 32 px wide: 250 of 1000 is 8 px, as in the first reference; as pixels it is outside."""
    with ChatDouble(yes) as double:
        undeclared = marks(measure(double, tasks, tmp_path), "grounding")
        declared = marks(measure(double, tasks, tmp_path, Boxes(unit="0..1000")), "grounding")
        mismatch = marks(measure(double, tasks, tmp_path, Boxes(unit="0..100")), "grounding")
    assert declared["grounding-0"] == 1.0
    assert set(undeclared.values()) == set(mismatch.values()) == {0.0}


def test_an_item_without_a_reply_is_left_out_and_not_wrong(tasks: TaskItems, tmp_path: Path) -> None:
    def refusing(seen: Seen, number: int) -> Answer:
        return Answer(status=400) if "pier 3" in seen.prompt else Answer("Yes.")

    with ChatDouble(refusing) as double:
        outcomes = measure(double, tasks, tmp_path, tries=1)
    assert sorted(marks(outcomes, "presence")) == [f"presence-{n}" for n in (0, 1, 2, 4, 5)]
