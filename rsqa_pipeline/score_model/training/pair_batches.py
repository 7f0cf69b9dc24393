"""Preference pairs in training order, and each process's micro batches of each step.

An optimizer step learns from the same rankings for any number of processes. Each process takes its share of them, in
micro batches that fit its memory, and every ranking has the same weight.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rsqa_pipeline.images.decode import ImageFault
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.records import canonical_messages
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder, ContextTooLongError
from rsqa_pipeline.score_model.inputs.sequences import Pixels
from rsqa_pipeline.score_model.pairs import Pair
from rsqa_pipeline.score_model.training.ranked_lists import MarkedPair, Ranking, as_lists

log = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30
"""Maximum size of the prepared images kept in memory; others are opened again each time they are needed."""
_BLANK = ("blank",)
SORT_WINDOW = 8
"""Number of batches that are sorted by length together; wider saves padding, narrower is more random."""

Fault = tuple[str, str, str]
"""pair_id, reason and detail of a pair that cannot be used."""


@dataclass(frozen=True)
class MicroBatch:
    """Rankings that go through the model in one pass."""

    rankings: list[Ranking]
    weight: float
    """Weight of their mean loss in the step's loss; all weights of a step, over all processes, sum to 1."""


class PixelStore:
    """Prepared images by reference, kept up to a budget of bytes."""

    def __init__(self, encoder: ChatEncoder, budget: int = CACHE_BYTES) -> None:
        self._encoder = encoder
        self._left = budget
        self._kept: dict[Hashable, Pixels] = {}

    def __getitem__(self, reference: str) -> Pixels:
        """Raises ImageFault where the image cannot be opened."""
        if reference in self._kept:
            return self._kept[reference]
        pixels = self._encoder.pixels(reference)
        size = pixels.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[reference] = pixels
        return pixels


class PairBatches:
    """Training pairs, or the lists that they form, in training order over all epochs.

    Every image is opened once at the start. Pairs whose image cannot be used are left out and listed in ``faults``.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        encoder: ChatEncoder,
        phase: ScoreModelPhase,
        seed: int,
        tokens_per_pass: int | None = None,
        always_image: bool = False,
    ) -> None:
        """
        Args:
            tokens_per_pass: see `ScoreModelSettings.tokens_per_pass`.
            always_image: add a text with a blank image to a micro batch without images, so that every micro batch of
                every process runs the vision tower. The text is in no ranking.
        """
        self.encoder = encoder
        self.store = PixelStore(encoder)
        self.faults: list[Fault] = []
        self.truncated = 0
        """Number of texts cut to the context's length, counted per pair."""
        self._tokenized: dict[tuple[bool, str, str], tuple[int, ...]] = {}
        self._image_tokens: dict[Hashable, int] = {}
        learned: list[MarkedPair] = []
        for pair in tqdm(pairs, desc="prepare pairs", unit="pair", disable=len(pairs) < 500):
            prepared = None if self._too_close(pair, phase.min_gap) else self._prepared(pair)
            if prepared is not None:
                learned.append(prepared)
        ranked = phase.loss == "plackett_luce"
        self.rankings = as_lists(learned) if ranked else [pair.ranking for pair in learned]
        self.order = training_order(self.rankings, phase.epochs, phase.batch_size, seed)
        self._per_step = phase.batch_size * phase.gradient_accumulation
        self._per_micro_batch = phase.batch_size
        self._tokens_per_pass = tokens_per_pass
        self._always_image = always_image
        self._blank, self._blank_row = (
            encoder.pixels(Image.new("RGB", (64, 64))),
            CandidateRow(encoder.tokens([], "", True), _BLANK),
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs; an incomplete last step is left out, unless it is the only one."""
        return max(1, len(self.order) // self._per_step)

    def micro_batches(self, step: int, rank: int = 0, world_size: int = 1) -> list[MicroBatch]:
        """Micro batches of process ``rank`` in a step, from 0; every process has the same number of them.

        A process with nothing left repeats rankings with weight 0, since the others wait for it in every pass.
        """
        rankings = [self.rankings[i] for i in self.order[step * self._per_step : (step + 1) * self._per_step]]
        bounds = [len(rankings) * process // world_size for process in range(world_size + 1)]
        shares = [self._split(rankings[a:b], world_size) for a, b in pairwise(bounds)]
        mine = [MicroBatch(part, len(part) / len(rankings)) for part in shares[rank]]
        idle = MicroBatch(rankings[:1], 0.0)
        return mine + [idle] * (max(map(len, shares)) - len(mine))

    def _split(self, rankings: list[Ranking], world_size: int) -> list[list[Ranking]]:
        """One process's share of a step, split into micro batches."""
        if self._tokens_per_pass is None:
            size = -(-self._per_micro_batch // world_size)
            return [rankings[i : i + size] for i in range(0, len(rankings), size)]
        parts: list[list[Ranking]] = []
        for ranking in rankings:
            if parts and self.tokens([*parts[-1], ranking]) <= self._tokens_per_pass:
                parts[-1].append(ranking)
            else:
                parts.append([ranking])
        return parts

    def tokens(self, rankings: Sequence[Ranking]) -> int:
        """Tokens that these rankings add to a micro batch: each text once, and each image once."""
        rows = {row for ranking in rankings for row in ranking.rows}
        images = {row.image for row in rows if row.image is not None}
        return sum(len(row.tokens) for row in rows) + sum(self._image_tokens[image] for image in images)

    def collate(self, rankings: Sequence[Ranking]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, and those of `ranking_loss`:

        ``ranked`` (lists, longest): indices of each ranking's texts among the scores, best first, short rankings
        padded with 0; ``counts`` (lists,): number of texts in each; ``mark_gaps`` (lists,): see `Ranking.mark_gap`. A
        text in several rankings of one image is in the batch once; so is an image.
        """
        rows = list(dict.fromkeys(row for ranking in rankings for row in ranking.rows))
        position = {row: index for index, row in enumerate(rows)}
        images: dict[Hashable, Pixels] = {
            row.image: self.store[row.image] for row in rows if isinstance(row.image, str)
        }
        if self._always_image and not images:
            rows.append(self._blank_row)
            images[_BLANK] = self._blank
        ranked = torch.zeros(len(rankings), max(len(ranking.rows) for ranking in rankings), dtype=torch.int64)
        for index, ranking in enumerate(rankings):
            ranked[index, : len(ranking.rows)] = torch.tensor([position[row] for row in ranking.rows])
        return {
            **self.encoder.batch(rows, images),
            "ranked": ranked,
            "counts": torch.tensor([len(ranking.rows) for ranking in rankings]),
            "mark_gaps": torch.tensor([ranking.mark_gap for ranking in rankings]),
        }

    def _too_close(self, pair: Pair, min_gap: float) -> bool:
        marks = pair["chosen_mark"], pair["rejected_mark"]
        if None in marks or marks[0] - marks[1] >= min_gap:
            return False
        self.faults.append((pair["pair_id"], "close_marks", f"{marks[0]:.2f} and {marks[1]:.2f}, asked {min_gap:g}"))
        return True

    def _prepared(self, pair: Pair) -> MarkedPair | None:
        image = pair["image"]
        chosen, rejected = (CandidateRow(self._tokens(pair, pair[side]), image) for side in ("chosen", "rejected"))
        try:
            pixels = self.store[image] if image is not None else None
            self.encoder.expand_image_tokens(chosen, pixels)
        except ImageFault as fault:
            self.faults.append((pair["pair_id"], fault.reason, fault.detail))
            return None
        except ContextTooLongError as error:
            self.faults.append((pair["pair_id"], "context_too_long", str(error)))
            return None
        if pixels is not None:
            self._image_tokens[image] = len(pixels.tokens)
        for row in (chosen, rejected):
            self.truncated += self.encoder.length(row, pixels) > self.encoder.max_length
        marks = pair["chosen_mark"], pair["rejected_mark"]
        gap = 0.0 if None in marks else max(0.0, marks[0] - marks[1])
        return MarkedPair(Ranking((chosen, rejected), gap), marks[1] if marks[0] is not None else None)

    def _tokens(self, pair: Pair, text: str) -> tuple[int, ...]:
        """Tokens of one side; the chosen text of several pairs is tokenized once."""
        has_image = pair["image"] is not None
        key = (has_image, canonical_messages(pair["context"]), text)
        if key not in self._tokenized:
            self._tokenized[key] = self.encoder.tokens(pair["context"], text, has_image)
        return self._tokenized[key]


def training_order(pairs: Sequence[Ranking], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Indices of the pairs (or lists), epoch after epoch; the last epoch may be incomplete.

    In each epoch images come in random order with all their pairs together, so that a batch encodes an image once.
    Within `SORT_WINDOW` batches they are sorted by length, to reduce padding, and the batches are shuffled again.
    """
    by_image: dict[Any, list[int]] = {}
    for index, pair in enumerate(pairs):
        image = pair.rows[0].image
        by_image.setdefault(index if image is None else image, []).append(index)
    groups = list(by_image.values())
    lengths = [max(len(row.tokens) for index in group for row in pairs[index].rows) for group in groups]
    generator = torch.Generator().manual_seed(seed)
    total = round(epochs * len(pairs))
    order: list[int] = []
    while len(order) < total:
        order.extend(_epoch(groups, lengths, batch_size, generator))
    return order[:total]


def _epoch(groups: list[list[int]], lengths: list[int], batch_size: int, generator: torch.Generator) -> list[int]:
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    per_window = max(1, SORT_WINDOW * batch_size * len(groups) // sum(map(len, groups)))
    order: list[int] = []
    for start in range(0, len(shuffled), per_window):
        window = sorted(shuffled[start : start + per_window], key=lambda group: lengths[group])
        indices = [index for group in window for index in groups[group]]
        batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
        rest = [batches.pop()] if len(batches[-1]) < batch_size else []
        permutation = torch.randperm(len(batches), generator=generator).tolist()
        order.extend(index for batch in [*(batches[p] for p in permutation), *rest] for index in batch)
    return order
