"""The cheap part of a score model: its first language layers, on images of fewer tokens, without its head.

What it finds is not a score. A regression on these states predicts scores well enough to drop hopeless rows (see
`rsqa_pipeline.curated_subsets.scoring.first_pass`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rsqa_pipeline.models.image_size import max_image_tokens
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.score_model.additions import Additions
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder, load_image
from rsqa_pipeline.score_model.inputs.sequences import Pixels
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Output, Scorer, Tensors

States = npt.NDArray[np.float32]
DEPTHS = (0.25, 0.5)
"""Shares of the language layers that are tried."""
IMAGE_SHARES = (0.25, 1.0)
"""Shares of an image's tokens that are tried, where the family can show fewer."""


@dataclass(frozen=True)
class Exit:
    """How much of the score model a first pass runs."""

    layers: int
    """Number of first language layers."""
    image_share: float
    """Share of each image's tokens."""


def exits(model: ScoreModel) -> list[Exit]:
    """The cheaper parts of a model that are worth a try, cheapest first; none for a language model of one layer."""
    layers = len(model.backbone.get_decoder().layers)
    depths = sorted({math.ceil(share * layers) for share in DEPTHS} - {layers})
    shares = IMAGE_SHARES if model.shares_sequences else IMAGE_SHARES[-1:]
    return [Exit(depth, share) for share in shares for depth in depths]


class FirstLayers(Scorer):
    """Runs a scorer's candidates through the first layers only. Weights and processor are the scorer's own."""

    def __init__(self, scorer: Scorer, at: Exit) -> None:
        processor = scorer._encoder.processor
        super().__init__(
            first_layers(scorer.model, at.layers), processor, scorer._encoder.max_length, scorer.version,
            scorer.batch_tokens,
        )  # fmt: skip
        if at.image_share < 1:
            self._encoder = _SmallerImages(processor, scorer._encoder.max_length, at.image_share)
        self._states: list[Tensor] = []

    def states(self, groups: Sequence[ScoringGroup]) -> tuple[States, list[list[int | None]]]:
        """The states at the last tokens of all candidates, (candidates, hidden), float32.

        Also returns each candidate's row in them, in the groups' order; None for a candidate that cannot be run.
        """
        self._states = []
        rows = [[None if row is None else int(row) for row in of_group] for of_group in self.score(groups)]
        found = torch.cat(self._states) if self._states else torch.empty(0, self.model.head.in_features)
        self._states = []
        return found.numpy(), rows

    @torch.inference_mode()
    def _forward(self, tensors: Tensors) -> list[Output]:
        """Keeps the states and gives their row numbers in place of scores."""
        device = self.model.head.weight.device
        pooled = self.model.pooled(**{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})
        start = sum(map(len, self._states))
        self._states.append(pooled.float().cpu())
        return [(float(start + row), None) for row in range(len(pooled))]


def first_layers(model: ScoreModel, layers: int) -> ScoreModel:
    """A score model of the first language layers that shares all weights; without additions, so nothing corrects what
    it gives."""
    decoder = model.backbone.get_decoder()
    shorter = copy.copy(decoder)
    shorter._modules = {**decoder._modules, "layers": decoder.layers[:layers]}
    found = _with(model, decoder, shorter)
    assert isinstance(found, ScoreModel)
    found.additions = Additions()
    return found


def _with(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The module with one of its descendants replaced; only the modules above that one are copied."""
    if module is old:
        return new
    children = {name: child and _with(child, old, new) for name, child in module._modules.items()}
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin


class _SmallerImages(ChatEncoder):
    def __init__(self, processor: object, max_length: int, share: float) -> None:
        super().__init__(processor, max_length)
        self._share = share

    def pixels(self, image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        """As `ChatEncoder.pixels`, with a share of the tokens that the image has there."""
        decoded, processor = load_image(image), self.processor.image_processor
        usual = (
            processor.get_number_of_image_patches(decoded.height, decoded.width, {}) // int(processor.merge_size) ** 2
        )
        limit = max_image_tokens(self.max_length) if max_tokens is None else max_tokens
        return super().pixels(decoded, max(1, int(self._share * min(usual, limit))))


def flops(scorer: Scorer, groups: Sequence[ScoringGroup]) -> int:
    """Operations in matrix products and attention to score the groups."""
    with FlopCounterMode(display=False) as counter:
        scorer.score(groups)
    return int(counter.get_total_flops())
