"""Patch embedding as a matrix product: equal to a convolution without overlap, and much faster."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProduct(nn.Conv3d):
    """Embeds patches (patches, channels, time, height, width), each the size of the kernel."""

    def forward(self, patches: Tensor) -> Tensor:
        """(patches, out channels, 1, 1, 1)."""
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def use_patch_products(model: nn.Module) -> None:
    """Replaces each patch convolution of a Qwen-VL vision tower by a matrix product; weights and their names stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == module.stride:
            module.__class__ = PatchProduct
