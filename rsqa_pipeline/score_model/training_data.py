"""Preference pairs in the order they are learned from, and their batches."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from rsqa_pipeline.images import ImageFault
from rsqa_pipeline.records import canonical_messages
from rsqa_pipeline.score_model.inputs import ContextTooLongError, Encoder, Pixels, Row
from rsqa_pipeline.score_model.pairs import Pair

log = logging.getLogger(__name__)

CACHE_BYTES = 2 << 30
"""Prepared images kept in memory; what is beyond is opened again each time it is needed."""
SORT_WINDOW = 8
"""Batches that are sorted by length among themselves; wider saves padding, narrower is more random."""

Fault = tuple[str, str, str]
"""pair_id, reason, detail of a pair that cannot be used."""
LearnedPair = tuple[Row, Row]
"""Chosen, rejected."""


class PixelStore:
    """Prepared images by reference, kept up to a budget of bytes."""

    def __init__(self, encoder: Encoder, budget: int = CACHE_BYTES) -> None:
        self._encoder = encoder
        self._left = budget
        self._kept: dict[Hashable, Pixels] = {}

    def __getitem__(self, reference: str) -> Pixels:
        """Raises ImageFault where the image cannot be opened."""
        if reference in self._kept:
            return self._kept[reference]
        pixels = self._encoder.pixels(reference)
        size = pixels.values.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[reference] = pixels
        return pixels


class PairData(Dataset[LearnedPair]):
    """Training pairs in the order they are learned from, all epochs one after another.

    Every image is opened once at the start. Pairs whose image cannot be used are left out and named in
    ``faults``.
    """

    def __init__(self, pairs: Sequence[Pair], encoder: Encoder, epochs: float, batch_size: int, seed: int) -> None:
        self.encoder = encoder
        self.store = PixelStore(encoder)
        self.faults: list[Fault] = []
        self.truncated = 0
        """Texts that lose their end to the context's length, once a pair."""
        self.pairs: list[LearnedPair] = []
        self._tokenized: dict[tuple[bool, str, str], tuple[int, ...]] = {}
        for pair in tqdm(pairs, desc="prepare pairs", unit="pair", disable=len(pairs) < 500):
            learned = self._prepared(pair)
            if learned is not None:
                self.pairs.append(learned)
        self.order = training_order(self.pairs, epochs, batch_size, seed)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> LearnedPair:
        return self.pairs[self.order[index]]

    def collate(self, pairs: Sequence[LearnedPair]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, and ``pairs`` (pairs, 2): rows of chosen and rejected.

        A text that stands in several pairs of one image is in the batch once; so is an image.
        """
        rows = list(dict.fromkeys(row for pair in pairs for row in pair))
        place = {row: index for index, row in enumerate(rows)}
        images: dict[Hashable, Pixels] = {
            row.image: self.store[row.image] for row in rows if isinstance(row.image, str)
        }
        indices = torch.tensor([[place[chosen], place[rejected]] for chosen, rejected in pairs])
        return {**self.encoder.batch(rows, images), "pairs": indices}

    def _prepared(self, pair: Pair) -> LearnedPair | None:
        image = pair["image"]
        chosen, rejected = (Row(self._tokens(pair, pair[side]), image) for side in ("chosen", "rejected"))
        try:
            pixels = self.store[image] if image is not None else None
            self.encoder.widen(chosen, pixels)
        except ImageFault as fault:
            self.faults.append((pair["pair_id"], fault.reason, fault.detail))
            return None
        except ContextTooLongError as error:
            self.faults.append((pair["pair_id"], "context_too_long", str(error)))
            return None
        for row in (chosen, rejected):
            self.truncated += self.encoder.length(row, pixels) > self.encoder.max_length
        return chosen, rejected

    def _tokens(self, pair: Pair, text: str) -> tuple[int, ...]:
        """Tokens of one side; the chosen text of several pairs is tokenized once."""
        has_image = pair["image"] is not None
        key = (has_image, canonical_messages(pair["context"]), text)
        if key not in self._tokenized:
            self._tokenized[key] = self.encoder.tokens(pair["context"], text, has_image)
        return self._tokenized[key]


def training_order(pairs: Sequence[LearnedPair], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Indices of the pairs, epoch after epoch; the last epoch may be a part.

    In each epoch images come in random order with all their pairs together, so that a batch encodes an image
    once; within `SORT_WINDOW` batches they are sorted by length, to pad little, and the batches are shuffled
    again.
    """
    by_image: dict[Any, list[int]] = {}
    for index, (chosen, _) in enumerate(pairs):
        by_image.setdefault(index if chosen.image is None else chosen.image, []).append(index)
    groups = list(by_image.values())
    lengths = [max(len(row.tokens) for index in group for row in pairs[index]) for group in groups]
    generator = torch.Generator().manual_seed(seed)
    wanted = round(epochs * len(pairs))
    order: list[int] = []
    while len(order) < wanted:
        order.extend(_epoch(groups, lengths, batch_size, generator))
    return order[:wanted]


def _epoch(groups: list[list[int]], lengths: list[int], batch_size: int, generator: torch.Generator) -> list[int]:
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    per_window = max(1, SORT_WINDOW * batch_size * len(groups) // sum(map(len, groups)))
    order: list[int] = []
    for start in range(0, len(shuffled), per_window):
        window = sorted(shuffled[start : start + per_window], key=lambda group: lengths[group])
        indices = [index for group in window for index in groups[group]]
        batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
        rest = [batches.pop()] if len(batches[-1]) < batch_size else []
        places = torch.randperm(len(batches), generator=generator).tolist()
        order.extend(index for batch in [*(batches[p] for p in places), *rest] for index in batch)
    return order
