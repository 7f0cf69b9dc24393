"""A convolution whose patches do not overlap is one matrix product, and much faster as such."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchProduct(nn.Conv3d):
    """Takes one patch at a time, (patches, channels, time, height, width), each as large as the kernel."""

    def forward(self, patches: Tensor) -> Tensor:
        """(patches, out channels, 1, 1, 1)."""
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def use_patch_products(model: nn.Module) -> None:
    """Lets every patch embedding of a Qwen-VL vision tower multiply instead of convolve; weights and names stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == module.stride:
            module.__class__ = PatchProduct
