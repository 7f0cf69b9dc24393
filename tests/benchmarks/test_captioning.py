"""ROUGE-L of captions against values computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from rsqa_pipeline.benchmarks.captioning import UnicodeTokenizer, other_caption_level, rouge_l
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


@given(st.text(min_size=1))
def test_identical_captions_have_rouge_l_1(caption: str) -> None:
    assert rouge_l(caption, ["a beach", caption]) == (1.0 if caption.strip() else 0.0)


@pytest.mark.parametrize(
    ("reply", "reference", "value"),
    [
        ("港口里有两艘白船", "港口里有三艘白船", 7 / 8),
        ("два белых корабля", "Два белых танка", 2 / 3),
        ("cafe\u0301 au port", "caf\u00e9 au port", 1.0),  # NFD and NFC
        ("दो जहाज", "दो जहाज हैं", 0.8),
        ("2架飞机 parked", "2架飞机 parked", 1.0),
        ("a港口b", "港口", 2 / 3),
    ],
)
def test_rouge_l_of_other_scripts_by_hand(reply: str, reference: str, value: float) -> None:
    assert rouge_l(reply, [reference]) == pytest.approx(value)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_tokens_of_rouge_score(text: str) -> None:
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)
