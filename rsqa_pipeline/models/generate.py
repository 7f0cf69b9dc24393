"""Text from a VLM: greedy or sampled, in batches, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from rsqa_pipeline.models.conversation import encode
from rsqa_pipeline.models.load import QwenVLProcessor, Vlm
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message

MAX_PROMPT_TOKENS = 8192
"""Paper's context length; a longer prompt is refused, not cut."""
_IMAGE_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


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
    """``samples`` answers to each chat, which ends with the user's turn.

    Args:
        images: the image each chat is about, or None.
        sampling: temperature and top-p; None decodes greedily. Its own max_new_tokens is not read here.
        batch_size: chats at once; each is read once, however many samples it gets.
        seed: the same seed, chats and batch size give the same text on the same machine.

    Returns:
        One list of ``samples`` stripped texts a chat; a text may be empty.

    Raises:
        ValueError: several greedy samples are asked for, or a prompt exceeds MAX_PROMPT_TOKENS.
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
        # generate() draws from torch's global generator only: lend it a seeded state, then put the old one back
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed((seed * 1_000_003 + start) % 2**63)
            tokens = vlm.model.generate(**batch, **settings)[:, prompt:]
        texts = [text.strip() for text in vlm.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        answers += [texts[i : i + samples] for i in range(0, len(texts), samples)]
    return answers


def _settings(
    processor: QwenVLProcessor, sampling: Sampling | None, max_new_tokens: int, samples: int
) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": samples,
        "do_sample": sampling is not None,
        # a sampled image token would ask for an image that is not there
        "suppress_tokens": tokenizer.convert_tokens_to_ids(list(_IMAGE_MARKS)),
        "pad_token_id": tokenizer.pad_token_id,
    }
    if sampling is None:
        return {**settings, "temperature": None, "top_p": None, "top_k": None}
    return {**settings, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
