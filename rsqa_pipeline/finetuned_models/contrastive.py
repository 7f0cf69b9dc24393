"""One contrastive step of a CLIP or a SigLIP: its loss and gradients, in one process or several, at once or in chunks.

In chunks (gradient caching, Gao et al. 2021, https://arxiv.org/abs/2101.06983) the batch is first embedded without a
graph. The loss gives the gradient of each vector. Each chunk is then embedded again, with its graph, and passes the
gradients of its vectors on to the weights. Gradients are those of the whole batch; activations are those of a chunk.

With several processes each embeds its rows of the batch, and every process contrasts all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from rsqa_pipeline.models.two_towers import embed_tokens, is_siglip, project_images
from rsqa_pipeline.score_model.training.distributed import ProcessGroup

MAX_LOGIT_SCALE = math.log(100)
"""CLIP's limit on the learned temperature; SigLIP has none."""


@dataclass(frozen=True)
class PairBatch:
    """This process's rows of a batch of b samples, on its device; all processes have as many."""

    images: Tensor
    """Pixels (rows, 3, height, width), or the vision tower's output for them (rows, hidden)."""
    tokens: dict[str, Tensor]
    """What the text tower takes, (rows, tokens) each."""
    same: Tensor
    """(b, b) bool, True where two samples of the whole batch share their image or their text."""

    def chunks(self, size: int) -> list[PairBatch]:
        """At most ``size`` rows each."""
        return [
            PairBatch(
                self.images[start : start + size],
                {name: ids[start : start + size] for name, ids in self.tokens.items()},
                self.same,
            )
            for start in range(0, len(self.images), size)
        ]


class ContrastiveStep:
    """Loss and gradients of a batch."""

    def __init__(self, model: Any, group: ProcessGroup, chunk_size: int | None = None, bfloat16: bool = False) -> None:
        """
        Args:
            model: a CLIPModel or SiglipModel, in every process of the group with the same weights.
            chunk_size: rows whose activations are held at once; None: all.
            bfloat16: matrix products of both towers in bfloat16; cosines and loss stay float32.
        """
        self._model = model
        self._siglip = is_siglip(model)
        self._group = group
        self._chunk_size = chunk_size
        self._bfloat16 = bfloat16

    def backward(self, batch: PairBatch, share: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Adds the gradients of a batch; see `average_gradients`.

        Args:
            share: divides the gradients, where the gradients of so many batches are added up.
            seed: of the batch, for models with dropout.

        Returns:
            (loss, accuracy) of the whole batch: scalars without a graph; nats, and the share (0..1) of images whose own
            text ranks first among the texts that they are contrasted with.
        """
        if self._chunk_size is None:
            loss, accuracy = self._contrast(*self._embed(batch, [*seed, 0]), batch.same)
            (loss / share).backward()
            return loss.detach(), accuracy
        chunks = batch.chunks(self._chunk_size)
        with torch.no_grad():
            vectors = [self._embed(chunk, [*seed, number]) for number, chunk in enumerate(chunks)]
        seen, said = (torch.cat(side).requires_grad_() for side in zip(*vectors, strict=True))
        loss, accuracy = self._contrast(seen, said, batch.same)
        (loss / share).backward()
        assert seen.grad is not None and said.grad is not None
        gradients = zip(seen.grad.split(self._chunk_size), said.grad.split(self._chunk_size), strict=True)
        for number, (chunk, of_chunk) in enumerate(zip(chunks, gradients, strict=True)):
            again = list(zip(self._embed(chunk, [*seed, number]), of_chunk, strict=True))
            trained = [pair for pair in again if pair[0].requires_grad]  # not a SigLIP's frozen images
            torch.autograd.backward([vector for vector, _ in trained], [gradient for _, gradient in trained])
        return loss.detach(), accuracy

    def average_gradients(self) -> None:
        """Gives every process the gradients of the whole batch; called once before the optimizer's step."""
        if self._group.world_size == 1:
            return
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self._group.world_size

    def limit_temperature(self) -> None:
        """Called after each optimizer step."""
        if not self._siglip:
            self._model.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)

    def logits(self, seen: Tensor, said: Tensor) -> Tensor:
        """(b, b) cosines of unit vectors, images in rows, with the learned temperature and SigLIP's bias."""
        logits: Tensor = self._model.logit_scale.float().exp() * seen @ said.T
        return logits + self._model.logit_bias.float() if self._siglip else logits

    def _contrast(self, seen: Tensor, said: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        if self._group.world_size > 1:
            seen, said = (_GatherRows.apply(own, self._group)[: len(same)] for own in (seen, said))
        return (sigmoid_loss if self._siglip else contrastive_loss)(self.logits(seen, said), same)

    def _embed(self, batch: PairBatch, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and texts, float32 (rows, width)."""
        device = self._group.device
        with _seeded([*seed, self._group.rank], device), torch.autocast(device.type, torch.bfloat16, self._bfloat16):
            if batch.images.ndim == 4:
                embedded = self._model(pixel_values=batch.images, **batch.tokens)
                seen, said = embedded.image_embeds, embedded.text_embeds
            else:
                seen = F.normalize(project_images(self._model, batch.images), dim=-1)
                said = F.normalize(embed_tokens(self._model, batch.tokens), dim=-1)
        return seen.float(), said.float()  # bfloat16 would round cosines, scaled, to halves


class _GatherRows(torch.autograd.Function):
    """The rows of all processes, one after another, with their gradients.

    Every process has the complete loss, and so the complete gradient of its own rows. `average_gradients` later divides
    by the number of processes, which is made up for here.
    """

    @staticmethod
    def forward(context: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        context.group, context.rows = group, len(own)
        parts = [torch.empty_like(own) for _ in range(group.world_size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        start = context.group.rank * context.rows
        return gradient[start : start + context.rows] * context.group.world_size, None


def contrastive_loss(logits: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's symmetric cross-entropy, with samples that share their image or text excluded from the negatives.

    Args:
        logits: (b, b) scaled cosines, images in rows, texts in columns, own text on the diagonal.
        same: (b, b) bool, True where row and column share their image or their text; the diagonal is ignored.

    Returns:
        (loss, accuracy): scalars; nats, and the share of images whose own text ranks first.
    """
    own = torch.arange(len(logits), device=logits.device)
    logits = logits.masked_fill(_others(same), float("-inf"))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, _accuracy(logits)


def sigmoid_loss(logits: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """SigLIP's loss (Zhai et al. 2023): each pair of image and text is classified on its own, right or wrong.

    Args:
        logits: (b, b) scaled cosines plus the bias; `contrastive_loss` says which is where.
        same: as in `contrastive_loss`.

    Returns:
        (loss, accuracy): scalars; nats per image, and the share of images whose own text ranks first.
    """
    others = _others(same)
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    loss = -F.logsigmoid(sign * logits).masked_fill(others, 0.0).sum(dim=1).mean()
    return loss, _accuracy(logits.masked_fill(others, float("-inf")))


def _others(same: Tensor) -> Tensor:
    """Where a text is neither the image's own nor a negative of it."""
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _accuracy(logits: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == torch.arange(len(logits), device=logits.device)).float().mean()


@contextmanager
def _seeded(seed: Sequence[int], device: torch.device) -> Iterator[None]:
    """Random numbers of this seed, so that a chunk drops out the same when it is embedded again."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        yield
