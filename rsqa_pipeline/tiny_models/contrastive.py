"""The second phase of CLIP's recipe: contrastive training on images and captions (CLIP's symmetric loss)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from rsqa_pipeline.tiny_models.pixels import normalized


def contrastive_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, images: np.ndarray, captions: Sequence[str]
) -> torch.Tensor:
    """Cross-entropy of finding each image's caption in the batch, and each caption's image.

    Args:
        images: uint8 (b, h, w, 3) of the model's size.
        captions: one per image; a text that occurs twice in a batch is right for both images.
    """
    tokens = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt").to(model.device)
    pixels = normalized(images).to(model.device)
    logits = model(pixel_values=pixels, **tokens).logits_per_image.float()
    same = torch.tensor([[a == b for b in captions] for a in captions], dtype=logits.dtype, device=logits.device)
    goal = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
