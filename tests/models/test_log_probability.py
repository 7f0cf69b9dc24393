"""Mean log-probability of answers, against one plain forward pass per answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from rsqa_pipeline.models.conversation import encode
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.models.log_probability import answer_tokens, mean_log_probabilities
from rsqa_pipeline.models.prompt_length import MAX_PROMPT_TOKENS
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.records import Message


def image(side: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def group(question: str, candidates: list[str], side: int = 64, seed: int = 0) -> ScoringGroup:
    return ScoringGroup(image(side, seed), [Message(role="user", content=question)], candidates)


GROUPS = [
    group("how many tanks are there on the left of it?", ["3", "", "two white tanks on the left", "hi 3"]),
    group("how many?", ["two"], side=128, seed=1),
    group("two", []),
    group("tanks?", ["<|im_end|> two", "3"], side=96, seed=2),
]


def naive(vlm: Vlm, of: ScoringGroup, text: str) -> float:
    """One pass over prompt and answer together, without padding and without a cache."""
    batch = encode(vlm.processor, [of.context], [of.image], MAX_PROMPT_TOKENS, add_generation_prompt=True)  # type: ignore[list-item]
    answer = torch.tensor([answer_tokens(vlm.processor, text)])
    prompt = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], answer], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(answer)], dim=1)
    with torch.inference_mode():
        logits = vlm.model(**batch).logits[0, prompt - 1 : -1].double()
    return float(logits.log_softmax(dim=-1)[range(answer.shape[1]), answer[0]].mean())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_it_is_the_naive_value_of_each_answer(vlm: Vlm, batch_size: int) -> None:
    found = mean_log_probabilities(vlm, GROUPS, batch_size)
    assert [len(scores) for scores in found] == [4, 1, 0, 2]
    for of, scores in zip(GROUPS, found, strict=True):
        for text, score in zip(of.candidates, scores, strict=True):
            assert score.value == pytest.approx(naive(vlm, of, text), abs=2e-5)
            assert score.tokens == len(answer_tokens(vlm.processor, text))


def test_values_of_different_answers_differ(vlm: Vlm) -> None:
    values = [score.value for score in mean_log_probabilities(vlm, GROUPS, 8)[0]]
    assert len({round(value, 6) for value in values if value is not None}) == 4


def test_probabilities_of_the_first_token_sum_to_one(vlm: Vlm) -> None:
    """An empty answer is the end of the turn alone; the other first tokens take the rest of the probability."""
    of = group("how many?", [""])
    (score,) = mean_log_probabilities(vlm, [of], 1)[0]
    batch = encode(vlm.processor, [of.context], [of.image], MAX_PROMPT_TOKENS, add_generation_prompt=True)  # type: ignore[list-item]
    with torch.inference_mode():
        first = vlm.model(**batch).logits[0, -1].double().softmax(dim=-1)
    others = float(first.sum() - first[vlm.processor.tokenizer.eos_token_id])
    assert score.value is not None and math.exp(score.value) + others == pytest.approx(1, abs=1e-6)


def test_a_value_that_is_not_finite_is_missing(vlm: Vlm) -> None:
    head = vlm.model.get_output_embeddings()
    weight = head.weight.data.clone()
    try:
        head.weight.data.fill_(float("nan"))
        (score,) = mean_log_probabilities(vlm, [group("how many?", ["3"])], 1)[0]
    finally:
        head.weight.data.copy_(weight)
    assert (score.value, score.reason) == (None, "not_finite")


def test_generation_is_not_changed_by_it(vlm: Vlm) -> None:
    chats, images = [GROUPS[0].context], [GROUPS[0].image]
    before = generate(vlm, chats, images, None, 6, 1, seed=0)  # type: ignore[arg-type]
    mean_log_probabilities(vlm, GROUPS, 8)
    assert generate(vlm, chats, images, None, 6, 1, seed=0) == before  # type: ignore[arg-type]
