from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message

CHATS = [[Message(role="user", content=text)] for text in ("how many tanks?", "two white tanks", "hi")]
IMAGES = [Image.fromarray(np.full((64, 64, 3), 40 * i, dtype=np.uint8)) for i in range(2)] + [None]
SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=8)


def test_samples_depend_only_on_the_seed(vlm: Vlm) -> None:
    first = generate(vlm, CHATS, IMAGES, SAMPLING, 8, 2, seed=1, samples=3)
    torch.rand(5)
    assert first == generate(vlm, CHATS, IMAGES, SAMPLING, 8, 2, seed=1, samples=3)
    assert first != generate(vlm, CHATS, IMAGES, SAMPLING, 8, 2, seed=2, samples=3)
    assert [len(texts) for texts in first] == [3, 3, 3]


def test_global_random_state_is_restored(vlm: Vlm) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    generate(vlm, CHATS[:1], IMAGES[:1], SAMPLING, 4, 2, seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_greedy_text_does_not_depend_on_the_batch(vlm: Vlm) -> None:
    together = generate(vlm, CHATS, IMAGES, None, 8, 3, seed=0)
    alone = [generate(vlm, CHATS[i : i + 1], IMAGES[i : i + 1], None, 8, 1, seed=0)[0] for i in range(3)]
    assert together == alone


def test_image_tokens_are_never_generated(vlm: Vlm) -> None:
    raw = vlm.processor.tokenizer
    texts = generate(vlm, CHATS, IMAGES, Sampling(temperature=50.0, top_p=1.0, max_new_tokens=32), 32, 3, seed=0)
    assert not any(token in raw(text[0])["input_ids"] for text in texts for token in [vlm.processor.image_token_id])


def test_greedy_decoding_allows_one_answer_only(vlm: Vlm) -> None:
    with pytest.raises(ValueError, match="one answer"):
        generate(vlm, CHATS, IMAGES, None, 8, 2, seed=0, samples=2)
