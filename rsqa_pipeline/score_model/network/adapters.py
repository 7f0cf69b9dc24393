"""Low-rank adapters (LoRA) in the linear layers of a backbone's parts, and their merging into the weights."""

from __future__ import annotations

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from rsqa_pipeline.profile.score_model import Lora


def add_adapters(parts: list[nn.Module], lora: Lora, seed: int) -> list[LoraModel]:
    """Adds adapters to every linear layer of the parts, in place; only the adapters require a gradient there.

    An adapter adds nothing to its layer's output until it has learned something.
    """
    adapters = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in parts:
            names = [name for name, module in part.named_modules() if isinstance(module, nn.Linear)]
            config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
            adapters.append(LoraModel(part, config, "default"))
    return adapters


def merge_adapters(adapters: list[LoraModel]) -> None:
    """Adds what the adapters learned to the weights and removes the adapters, in place."""
    for adapter in adapters:
        adapter.merge_and_unload()
