"""Accuracies of the small models, for their model card and the asset's metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from rsqa_pipeline.answer_matching import same_answer
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Clip, Vlm
from rsqa_pipeline.records import Message
from rsqa_pipeline.tiny_models.pixels import normalized

_MAX_ANSWER_TOKENS = 16
_MAX_CAPTION_TOKENS = 60
_BATCH_SIZE = 64


def answers(
    vlm: Vlm,
    images: Sequence[np.ndarray] | np.ndarray,
    questions: Sequence[str],
    max_new_tokens: int = _MAX_ANSWER_TOKENS,
) -> list[str]:
    """The VLM's greedy answers; images uint8 (h, w, 3)."""
    chats = [[Message(role="user", content=question)] for question in questions]
    pictures = [Image.fromarray(image) for image in images]
    return [texts[0] for texts in generate(vlm, chats, pictures, None, max_new_tokens, _BATCH_SIZE, 0)]


def captions(vlm: Vlm, images: np.ndarray) -> list[str]:
    """The VLM's greedy captions."""
    return answers(vlm, images, [CAPTION_PROMPT] * len(images), _MAX_CAPTION_TOKENS)


def correct_answers(
    vlm: Vlm, images: Sequence[np.ndarray] | np.ndarray, questions: Sequence[str], expected: Sequence[str]
) -> list[bool]:
    """Whether each greedy answer is the same as the expected one."""
    given = answers(vlm, images, questions)
    return [same_answer(a, b) for a, b in zip(given, expected, strict=True)]


@torch.inference_mode()
def image_text_cosines(clip: Clip, images: np.ndarray, texts: Sequence[str]) -> torch.Tensor:
    """Cosines (images, texts) in [-1, 1]."""
    device = clip.model.device
    tokens = clip.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
    output = clip.model(pixel_values=normalized(images).to(device), **tokens)
    return (output.image_embeds @ output.text_embeds.T).float().cpu()


def zero_shot_accuracy(clip: Clip, images: np.ndarray, prompts: Sequence[str], classes: Sequence[int]) -> float:
    """Zero-shot accuracy, 0..1: the share of images nearest to their own class's prompt."""
    nearest = image_text_cosines(clip, images, prompts).argmax(dim=1)
    return float((nearest == torch.tensor(classes)).float().mean())


def retrieval_recall(clip: Clip, images: np.ndarray, texts: Sequence[str]) -> tuple[float, float]:
    """R@1 of finding the text of each image, and the image of each text, among all; 0..1."""
    cosines = image_text_cosines(clip, images, texts)
    own = torch.arange(len(texts))
    to_text = (cosines.argmax(dim=1) == own).float().mean()
    to_image = (cosines.argmax(dim=0) == own).float().mean()
    return float(to_text), float(to_image)
