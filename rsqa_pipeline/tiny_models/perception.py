"""The first phase of the recipe: a vision tower is trained with linear heads on the facts known about each image.

From captions alone, a small model learns to see very slowly: the gradient from the words reaches the vision tower
weakly and late. Trained directly on scene class, objects and their number, colour and place, it learns them within
minutes. The language phase then only has to read them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rsqa_pipeline.tiny_models.architecture import MERGE, WIDTH
from rsqa_pipeline.tiny_models.pixels import normalized, patches

UNKNOWN = -100
"""A label that is unknown or does not apply; losses and accuracies ignore it."""


@dataclass(frozen=True)
class Target:
    """What one head predicts: ``groups`` predictions (e.g. one per object class), each one of ``classes``, or the
    direction of a vector of ``classes`` numbers."""

    groups: int
    classes: int
    per_cell: bool = False
    """Predicted for each cell of the 4 x 4 grid from that cell's token alone, not for the whole image."""
    weight: float = 1.0
    vector: bool = False


Labels = Mapping[str, torch.Tensor]
"""Target name -> int64 (b, groups), or (b, cells, groups) if per cell; UNKNOWN where not known. Vectors: float32
(b, groups, classes)."""

Tower = Callable[[np.ndarray], torch.Tensor]
"""uint8 images (b, h, w, 3) -> tokens (b, cells, WIDTH), cells in rows from the top left."""


class Heads(nn.Module):
    """One linear layer per target, on the mean and maximum of the tower's tokens (or on each token)."""

    def __init__(self, targets: Mapping[str, Target], seed: int) -> None:
        super().__init__()
        self.targets = dict(targets)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.ModuleDict(
                {
                    name: nn.Linear(WIDTH if t.per_cell else 2 * WIDTH, t.groups * t.classes)
                    for name, t in self.targets.items()
                }
            )

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (b, groups, classes), or (b, cells, groups, classes) if per cell, of tokens (b, cells, WIDTH)."""
        pooled = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=-1)
        logits = {}
        for name, target in self.targets.items():
            flat = self.layers[name](tokens if target.per_cell else pooled)
            logits[name] = flat.unflatten(-1, (target.groups, target.classes))
        return logits

    def layer(self, name: str) -> nn.Linear:
        """The head of a target."""
        layer = self.layers[name]
        assert isinstance(layer, nn.Linear)
        return layer

    @torch.no_grad()
    def absorb_standardization(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Keeps the predictions unchanged when the tower's tokens become (tokens - mean) / deviation."""
        for name, target in self.targets.items():
            layer = self.layer(name)
            shift = mean if target.per_cell else torch.cat([mean, mean])
            layer.bias.add_(layer.weight @ shift)
            layer.weight.mul_(deviation)

    def loss(self, tokens: torch.Tensor, labels: Labels, smoothing: float) -> torch.Tensor:
        """Weighted sum of the heads' losses, each a mean over the known labels.

        The loss of a head is its cross-entropy, for vectors 1 - cosine.
        """
        total = tokens.new_zeros(())
        for name, logits in self(tokens).items():
            target, known = self.targets[name], labels[name].to(logits.device)
            if target.vector:
                loss = 1 - F.cosine_similarity(logits.float(), known, dim=-1).mean()
            else:
                loss = F.cross_entropy(
                    logits.float().flatten(0, -2), known.flatten(), ignore_index=UNKNOWN, label_smoothing=smoothing
                )
            total = total + target.weight * loss
        return total

    @torch.inference_mode()
    def accuracies(self, tokens: torch.Tensor, labels: Labels) -> dict[str, float]:
        """Share of known labels that each head predicts correctly, in [0, 1]; for vectors the mean cosine."""
        shares = {}
        for name, logits in self(tokens).items():
            if self.targets[name].vector:
                shares[name] = F.cosine_similarity(logits.cpu(), labels[name], dim=-1).mean().item()
                continue
            known = labels[name] != UNKNOWN
            shares[name] = (logits.argmax(-1).cpu() == labels[name])[known].float().mean().item()
        return shares


def vlm_tower(model: Any) -> Tower:
    """Qwen2-VL's vision tower with its merger."""

    def tokens(images: np.ndarray) -> torch.Tensor:
        pixels, grid = patches(images)
        merged: torch.Tensor = model.model.visual(pixels.to(model.device), grid.to(model.device)).pooler_output
        return merged.unflatten(0, (len(images), -1))

    return tokens


def clip_tower(model: Any) -> Tower:
    """CLIP's vision tower: its patches, averaged 2 x 2 to the VLM's cells, plus the pooled token that CLIP compares
    with text."""

    def tokens(images: np.ndarray) -> torch.Tensor:
        seen = model.vision_model(normalized(images).to(model.device))
        grid = seen.last_hidden_state[:, 1:]
        side = round(grid.shape[1] ** 0.5)
        cells = grid.transpose(1, 2).unflatten(2, (side, side))
        merged = F.avg_pool2d(cells, MERGE).flatten(2).transpose(1, 2)
        return merged + seen.pooler_output[:, None]

    return tokens
