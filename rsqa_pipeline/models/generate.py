"""Text generation with a VLM: greedy or sampled, in batches, deterministic for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.models.conversation import encode, render
from rsqa_pipeline.models.families import chat_form_of
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.models.prompt_length import MAX_PROMPT_TOKENS, MAX_TEXT_TOKENS
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message


def generate(
    vlm: Vlm,
    chats: Sequence[Sequence[Message]],
    images: Sequence[Image.Image | None],
    sampling: Sampling | None,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    samples: int = 1,
) -> list[list[str]]:
    """Generates ``samples`` answers to each chat, which must end with a user turn.

    Args:
        images: the image of each chat, or None.
        sampling: temperature and top-p; None decodes greedily. Its own max_new_tokens is ignored.
        batch_size: chats per batch, whatever ``samples`` is.
        seed: the same seed, chats and batch size give the same text on the same machine.

    Returns:
        One list of ``samples`` stripped texts per chat; a text can be empty.

    Raises:
        ValueError: several greedy samples are requested, or a prompt exceeds MAX_PROMPT_TOKENS: it is refused, not cut.
            Callers keep such prompts out (`prompt_fits`, `models.prompt_length.overlong_prompt`).
    """
    if sampling is None and samples != 1:
        raise ValueError("greedy decoding gives one answer; pass a Sampling for more")
    settings = _settings(vlm.processor, sampling, max_new_tokens, samples)
    answers: list[list[str]] = []
    starts = range(0, len(chats), batch_size)
    device = vlm.model.device
    devices = [device] if device.type == "cuda" else []
    for start in tqdm(starts, desc="generate", unit="batch", disable=len(starts) < 4, leave=False):
        rows = slice(start, start + batch_size)
        batch = encode(vlm.processor, chats[rows], images[rows], MAX_PROMPT_TOKENS, add_generation_prompt=True)
        prompt = batch["input_ids"].shape[1]
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        # generate() draws only from torch's global generator: seed it here and restore its state afterwards
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed((seed * 1_000_003 + start) % 2**63)
            tokens = vlm.model.generate(**batch, **settings)[:, prompt:]
        texts = [text.strip() for text in vlm.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        answers += [texts[i : i + samples] for i in range(0, len(texts), samples)]
    return answers


def prompt_fits(processor: ProcessorMixin, chat: Sequence[Message]) -> bool:
    """Whether the text of a prompt fits, beside an image of any size."""
    text = render(processor, chat, has_image=False, add_generation_prompt=True)
    return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) <= MAX_TEXT_TOKENS


def _settings(
    processor: ProcessorMixin, sampling: Sampling | None, max_new_tokens: int, samples: int
) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": samples,
        "do_sample": sampling is not None,
        # a sampled image token would refer to an image that does not exist
        "suppress_tokens": chat_form_of(processor).suppressed(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
    }
    if sampling is None:
        return {**settings, "temperature": None, "top_p": None, "top_k": None}
    return {**settings, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
