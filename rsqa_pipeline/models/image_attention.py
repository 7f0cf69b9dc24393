"""Vision-tower attention over a sequence of several images: images of the same size are processed in one call."""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

BY_IMAGE = "flash_by_image"
"""Name of the attention in transformers. Because it contains "flash", transformers calls it once for all images."""


def attend_by_image(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """Each patch attends to the patches of its own image, as if each image were passed separately.

    Args:
        query: (1, heads, patches, width); key and value have the same shape.
        cu_seq_lens_q: (images + 1,), the index of the first patch of each image, then the number of patches.

    Returns:
        (1, patches, heads, width), and None instead of attention weights.
    """
    runs_of_one_size = [list(images) for _, images in groupby(cu_seq_lens_q.diff().tolist())]
    attended = []
    for images, stop in zip(runs_of_one_size, accumulate(map(sum, runs_of_one_size)), strict=True):
        span = slice(stop - sum(images), stop)
        # (images, heads, patches per image, width)
        q, k, v = (t[0, :, span].unflatten(1, (len(images), -1)).transpose(0, 1) for t in (query, key, value))
        attended.append(scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def attend_to_images_together(backbone: PreTrainedModel) -> None:
    """Makes the vision tower of a Qwen-VL use `attend_by_image`, unless another attention was chosen."""
    config = backbone.visual.config
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(BY_IMAGE, attend_by_image)
        config._attn_implementation = BY_IMAGE
