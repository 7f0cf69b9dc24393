"""The one scorer: curation, rewards, best-of-N and evaluation all score through here.

An image is opened and encoded once per batch, however many candidates or groups show it. A score depends on
its own image, context and candidate alone, not on its batch: rows attend to their own tokens and are read at
their own end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.images import ImageFault
from rsqa_pipeline.models.load import (
    device_of,
    local_folder,
    weights_version,
)
from rsqa_pipeline.models.scoring_group import Group, Score
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.checkpoint import read_processor
from rsqa_pipeline.score_model.inputs import ContextTooLongError, Pixels, Row
from rsqa_pipeline.score_model.model import ScoreModel
from rsqa_pipeline.score_model.separate_inputs import encoder_for

Place = tuple[int, int]
"""Group, candidate."""

PROGRESS_FROM = 2_000
"""Candidates from which a progress bar is shown; fewer are done within seconds."""


class Scorer:
    """Scores groups of candidates with a score model."""

    def __init__(self, model: ScoreModel, processor: ProcessorMixin, max_length: int, version: str) -> None:
        self.model = model
        self.version = version
        """Hash of the model's weights; stands beside every score."""
        self.truncated = 0
        """Texts that lost their end to the context's length so far."""
        self._encoder = encoder_for(processor, max_length)

    @classmethod
    def load(cls, path_or_id: str | Path, compute: Compute) -> Scorer:
        """A scorer from a folder (or hub id) in our layout or the released one, with its processor beside.

        The backbone runs in the profile's dtype, the head always in float32. Texts are cut to the length that the model
        was trained with, which stands in its tokenizer.

        Raises:
            ModelError: no such checkpoint, or one that cannot be used.
        """
        folder = local_folder(path_or_id)
        model = ScoreModel.from_pretrained(folder)
        model.backbone.to(getattr(torch, compute.dtype))
        processor = read_processor(folder)
        max_length = processor.tokenizer.model_max_length
        return cls(model.to(device_of(compute)), processor, max_length, weights_version(folder))

    def score(self, groups: Sequence[Group], batch_size: int) -> list[list[float | None]]:
        """Score of every candidate, in the groups' order; None where there is no score.

        Unbounded, or above 0 for a model with softplus.

        Args:
            batch_size: candidates scored at once.
        """
        return [[score.value for score in of_group] for of_group in self.score_or_reason(groups, batch_size)]

    def score_or_reason(self, groups: Sequence[Group], batch_size: int) -> list[list[Score]]:
        """As `score`, with the reason beside every missing score: an `ImageFault`'s, ``context_too_long`` or
        ``not_finite``.
        """
        rows = self._rows(groups)
        scores: dict[Place, Score] = {}
        training = self.model.training
        self.model.eval()
        with tqdm(total=len(rows), desc="score", unit="text", disable=len(rows) < PROGRESS_FROM) as bar:
            for batch in _batches(rows, batch_size):
                scores.update(self._score_batch(batch, rows, groups))
                bar.update(len(batch))
        self.model.train(training)
        return [[scores[g, c] for c in range(len(group.candidates))] for g, group in enumerate(groups)]

    def _rows(self, groups: Sequence[Group]) -> dict[Place, Row]:
        rows = {}
        decoded: dict[int, int] = {}
        for g, group in enumerate(groups):
            key: str | int | None
            if group.image is None or isinstance(group.image, str):
                key = group.image
            else:  # the place where the object first stands: an address would order batches differently each run
                key = decoded.setdefault(id(group.image), g)
            for c, candidate in enumerate(group.candidates):
                rows[g, c] = Row(self._encoder.tokens(group.context, candidate, key is not None), key)
        return rows

    def _score_batch(
        self, batch: Sequence[Place], rows: dict[Place, Row], groups: Sequence[Group]
    ) -> dict[Place, Score]:
        pixels: dict[object, Pixels] = {}
        faults: dict[object, Score] = {}
        scores: dict[Place, Score] = {}
        usable: list[Place] = []
        for place in batch:
            row, image = rows[place], groups[place[0]].image
            if image is not None and row.image not in pixels and row.image not in faults:
                try:
                    pixels[row.image] = self._encoder.pixels(image)
                except ImageFault as fault:
                    faults[row.image] = Score(None, fault.reason, fault.detail)
            try:
                if row.image in faults:
                    scores[place] = faults[row.image]
                else:
                    self._encoder.widen(row, pixels.get(row.image))
                    usable.append(place)
                    self.truncated += self._encoder.length(row, pixels.get(row.image)) > self._encoder.max_length
            except ContextTooLongError as error:
                scores[place] = Score(None, "context_too_long", str(error))
        if usable:
            values = self._forward([rows[place] for place in usable], pixels)
            scores.update(zip(usable, map(_checked, values), strict=True))
        return scores

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Row], pixels: dict[object, Pixels]) -> list[float]:
        device = self.model.head.weight.device
        tensors = self._encoder.batch(rows, pixels)
        values: list[float] = self.model(**{name: tensor.to(device) for name, tensor in tensors.items()}).tolist()
        return values


def _batches(rows: dict[Place, Row], batch_size: int) -> Iterator[list[Place]]:
    """Batches of texts of about one length, a group whole in one batch unless it is larger than the batch.

    Groups that show the same image stand side by side within a length class, so that the image is encoded
    once.
    """
    groups: dict[int, list[Place]] = {}
    for place in rows:
        groups.setdefault(place[0], []).append(place)

    def order(places: list[Place]) -> tuple[int, str, Place]:
        longest = max(len(rows[place].tokens) for place in places)
        return longest // 16, str(rows[places[0]].image), places[0]

    waiting: list[Place] = []
    for places in sorted(groups.values(), key=order):
        if waiting and len(waiting) + len(places) > batch_size:
            yield waiting
            waiting = []
        waiting.extend(places)
        while len(waiting) > batch_size:
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]
    if waiting:
        yield waiting


def _checked(value: float) -> Score:
    return Score(value) if math.isfinite(value) else Score(None, "not_finite", f"the model gave {value}")
