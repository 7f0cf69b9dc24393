"""Batches stay within their budget, lose nothing, and pack candidates of one image in the cheaper way."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.models.patch_product import use_patch_products
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder
from rsqa_pipeline.score_model.inputs.sequences import TokenSequence
from rsqa_pipeline.score_model.scoring.batches import in_batches


def sequence(tokens: int, candidate: tuple[int, int]) -> TokenSequence:
    return TokenSequence([0] * tokens, [0] * tokens, {candidate: tokens - 1}, None)


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), max_size=40), st.integers(1, 120))
def test_every_sequence_is_in_one_batch_within_the_budget(lengths: list[list[int]], budget: int) -> None:
    arriving = [[sequence(n, (g, c)) for c, n in enumerate(group)] for g, group in enumerate(lengths)]
    batches = list(in_batches(arriving, budget))
    found = [candidate for batch in batches for one in batch for candidate in one.ends]
    assert sorted(found) == [(g, c) for g, group in enumerate(lengths) for c in range(len(group))]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(one.tokens) for one in batch) <= budget


def test_sequences_of_one_image_stay_together_and_batches_have_similar_lengths() -> None:
    arriving = [[sequence(n, (g, c)) for c in range(2)] for g, n in enumerate([10, 50, 11, 49, 12, 48])]
    batches = list(in_batches(arriving, 100))
    assert [[candidate for one in batch for candidate in one.ends] for batch in batches] == [
        [(0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (4, 1)],
        [(5, 0), (5, 1)],
        [(3, 0), (3, 1)],
        [(1, 0), (1, 1)],
    ]


def test_a_question_is_repeated_only_if_that_is_cheaper(processor: QwenVLProcessor, images: dict[str, str]) -> None:
    encoder = ChatEncoder(processor, 4096)
    pixels = encoder.pixels(images["red"])

    def sequences(question: str, candidates: int) -> list[list[tuple[int, int]]]:
        rows = {}
        for group, name in enumerate(("a", "b")):
            context = [Message(role="user", content=f"{name} {question}")]
            texts = [f"field {n}" for n in range(candidates)]
            rows |= {(group, c): row for c, row in enumerate(encoder.rows(context, texts, "red"))}
        return [list(one.ends) for one in encoder.sequences(rows, pixels)]

    assert sequences("red", 1) == [[(0, 0), (1, 0)]]  # the image once, each short question with its candidate
    many = [[(group, c) for c in range(8)] for group in range(2)]
    assert sequences("Is the field red or blue? " * 8, 8) == many  # the image twice, each long question once


def test_a_sequence_is_split_at_its_limit_and_shared_tokens_are_repeated(
    processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    encoder = ChatEncoder(processor, 4096)
    pixels = encoder.pixels(images["red"])
    rows = {(0, c): row for c, row in enumerate(encoder.rows([], [f"field {c}" for c in range(6)], "red"))}
    (whole,) = encoder.sequences(rows, pixels)
    parts = encoder.sequences(rows, pixels, len(whole.tokens) - 1)
    assert [candidate for part in parts for candidate in part.ends] == list(rows) and len(parts) == 2
    assert all(len(part.tokens) < len(whole.tokens) for part in parts)
    (alone,) = encoder.sequences({(0, 0): rows[0, 0]}, pixels, 1)
    assert len(alone.tokens) == encoder.length(rows[0, 0], pixels)


def test_a_patch_embedding_as_one_product_equals_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    tower = nn.ModuleDict({"proj": nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), "other": nn.Conv3d(3, 4, 2, 1)})
    patches = torch.randn(5, 3, 2, 8, 8, generator=generator)
    expected, untouched = tower["proj"](patches), tower["other"](patches)
    names = list(tower.state_dict())
    use_patch_products(tower)
    torch.testing.assert_close(tower["proj"](patches), expected, atol=1e-5, rtol=0)
    assert torch.equal(tower["other"](patches), untouched) and list(tower.state_dict()) == names
