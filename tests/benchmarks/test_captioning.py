"""ROUGE-L of captions against values computed by hand."""

from __future__ import annotations

import pytest

from rsqa_pipeline.benchmarks.captioning import other_caption_level, rouge_l
from rsqa_pipeline.benchmarks.task import TASK_FOLDER, load_task
from rsqa_pipeline.models.conversation import CAPTION_PROMPT


def test_rouge_l_by_hand() -> None:
    # common subsequence "two ships at" of 3 words; precision 3 / 4, recall 3 / 5, F1 2 * .75 * .6 / 1.35
    assert rouge_l("two ships at sea", ["two white ships at anchor"]) == pytest.approx(2 / 3)
    assert rouge_l("two ships", ["a beach", "two ships"]) == 1.0


@pytest.mark.parametrize("reply", [None, "", "  ", "?!"])
def test_an_empty_caption_gets_zero(reply: str | None) -> None:
    assert rouge_l(reply, ["two ships"]) == 0.0


def test_chance_level_is_another_images_caption() -> None:
    assert other_caption_level([["a b"], ["a c"]]) == pytest.approx(0.5)


def test_benchmark_prompt_equals_training_prompt() -> None:
    assert load_task(TASK_FOLDER / "caption.yaml").prompts == [CAPTION_PROMPT]
