"""A vision tower's attention where several images stand in one sequence: images of one size go through it together."""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

BY_IMAGE = "flash_by_image"
"""Its name in transformers, which calls what has "flash" in its name once, and others once for each image."""


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
    """Each patch attends to those of its own image, as where every image is a call of its own.

    Args:
        query: (1, heads, patches, width), as key and value.
        cu_seq_lens_q: where each image begins among the patches, and where the last one ends, (images + 1,).

    Returns:
        (1, patches, heads, width), and no weights.
    """
    alike = [list(images) for _, images in groupby(cu_seq_lens_q.diff().tolist())]
    attended = []
    for images, stop in zip(alike, accumulate(map(sum, alike)), strict=True):
        one_sized = slice(stop - sum(images), stop)
        # (images, heads, patches of one, width)
        q, k, v = (t[0, :, one_sized].unflatten(1, (len(images), -1)).transpose(0, 1) for t in (query, key, value))
        attended.append(scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def attend_to_images_together(backbone: PreTrainedModel) -> None:
    """Lets the vision tower of a Qwen-VL use `attend_by_image`, unless another attention was chosen."""
    config = backbone.visual.config
    if config._attn_implementation == "sdpa":
        AttentionInterface.register(BY_IMAGE, attend_by_image)
        config._attn_implementation = BY_IMAGE
