"""The one scorer: curation, rewards, best-of-N and evaluation all score through here.

The candidates of an image share a sequence, so that image and context are run once; batches are filled with sequences
of about one length up to a budget of tokens, while threads open the images that come next. A score depends on its own
image, context and candidate alone: not on the batch, its order or its padding, nor on what else shares the sequence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.models.load import device_of, local_folder, weights_version
from rsqa_pipeline.models.scoring_group import Group, Score
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.inputs.encoder import Row
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.inputs.sequences import Pixels, Place, TokenSequence
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.batches import in_batches
from rsqa_pipeline.score_model.scoring.image_loading import (
    Shown,
    one_ahead,
    out_of_memory,
    pixels_or_reason,
    prepare,
    prepared_ahead,
)

log = logging.getLogger(__name__)

PROGRESS_FROM = 2_000
"""Candidates from which a progress bar is shown; fewer are done within seconds."""
SMALLER_IMAGES = (1024, 256)
"""Tokens that an image is given, one after the other, where memory runs out while it is prepared."""
LENGTH_CLASS = 16
"""Tokens by which texts may differ and still count as of one length."""
LONGEST = 4096
"""Tokens of a sequence with several candidates; attention also computes what its mask hides, the more the longer."""

Tensors = dict[str, Tensor]


class Scorer:
    """Scores groups of candidates with a score model."""

    def __init__(
        self, model: ScoreModel, processor: ProcessorMixin, max_length: int, version: str, batch_tokens: int
    ) -> None:
        """
        Args:
            max_length: tokens of a text at most, its image's among them; a longer one loses its end.
            batch_tokens: tokens scored at once, padding and images' tokens among them.
        """
        self.model = model
        self.version = version
        """Hash of the model's weights; stands beside every score."""
        self.batch_tokens = batch_tokens
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
        return cls(model.to(device_of(compute)), processor, max_length, weights_version(folder), compute.batch_tokens)

    def score(self, groups: Sequence[Group]) -> list[list[float | None]]:
        """Score of every candidate, in the groups' order; None where there is no score.

        Unbounded, or above 0 for a model with softplus.
        """
        return [[score.value for score in of_group] for of_group in self.score_or_reason(groups)]

    def score_or_reason(self, groups: Sequence[Group]) -> list[list[Score]]:
        """As `score`, with what is to be known about each.

        Reasons of missing scores: an `ImageFault`'s; ``no_user_turn``, an image and no turn to show it in;
        ``context_too_long``, image and context leave the text no place, however small the image is made;
        ``out_of_memory``, not even the text alone with a small image could be run; ``not_finite``.

        Notes: ``text_cut``, the text lost its end to the context's length; ``image_downscaled``, the image was made
        smaller than in training to leave the text a place or to fit the memory.
        """
        scores: dict[Place, Score] = {}
        shown = self._shown(groups, scores)
        candidates = sum(len(group.candidates) for group in groups)
        training = self.model.training
        self.model.eval()
        try:
            with tqdm(total=candidates, desc="score", unit="text", disable=candidates < PROGRESS_FROM) as bar:
                for batch, tensors in one_ahead(self._ready(shown, scores)):
                    scores.update(self._score_batch(batch, tensors, shown))
                    bar.update(len(scores) - bar.n)
            scores |= self._again_alone(scores, shown)
        finally:
            self.model.train(training)
        return [[scores[g, c] for c in range(len(group.candidates))] for g, group in enumerate(groups)]

    def _shown(self, groups: Sequence[Group], scores: dict[Place, Score]) -> dict[Place, Shown]:
        """Place -> the candidates that show its image, the shorter ones first; what cannot be shown goes to scores."""
        by_image: dict[str | int | Place, Shown] = {}
        for g, group in enumerate(groups):
            image = group.image
            key = id(image) if isinstance(image, Image.Image) else image
            try:
                rows = self._encoder.rows(group.context, group.candidates, key)
            except ValueError as error:
                scores |= {(g, c): Score(None, "no_user_turn", str(error)) for c in range(len(group.candidates))}
                continue
            for c, row in enumerate(rows):
                by_image.setdefault((g, c) if key is None else key, Shown(image, {})).rows[g, c] = row
        ordered = sorted(by_image.values(), key=lambda shown: (_own_tokens(shown) // LENGTH_CLASS, min(shown.rows)))
        return {place: shown for shown in ordered for place in shown.rows}

    def _ready(
        self, shown: dict[Place, Shown], scores: dict[Place, Score]
    ) -> Iterator[tuple[list[TokenSequence], Tensors | None]]:
        """Batches with their tensors, or None where memory ran out for those; refused places go to scores."""

        def arriving() -> Iterator[list[TokenSequence]]:
            distinct = {id(one): one for one in shown.values()}.values()
            for prepared in prepared_ahead(self._encoder, distinct, min(self.batch_tokens, LONGEST)):
                scores.update(prepared.refused)
                yield prepared.sequences

        for batch in in_batches(arriving(), self.batch_tokens):
            yield batch, self._tensors(batch)

    def _tensors(self, batch: Sequence[TokenSequence]) -> Tensors | None:
        """The batch as the model takes it, still in the machine's memory; None where that ran out."""
        dtype, on_gpu = self.model.backbone.dtype, self.model.head.weight.is_cuda
        try:
            tensors = self._encoder.tensors(batch)
            tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
            return {name: tensor.pin_memory() for name, tensor in tensors.items()} if on_gpu else tensors
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return None

    def _score_batch(
        self, batch: Sequence[TokenSequence], tensors: Tensors | None, shown: dict[Place, Shown]
    ) -> dict[Place, Score]:
        """Scores of the batch; where memory runs out, of its halves, and at last of one text with a smaller image."""
        values = self._values(tensors) if tensors is not None else None
        if values is not None:
            places = [(place, sequence.pixels) for sequence in batch for place in sequence.ends]
            scored = zip(places, values, strict=True)
            return {place: self._score(shown[place].rows[place], pixels, value) for (place, pixels), value in scored}
        log.warning("out of memory at %d tokens; going on with less at once", sum(len(s.tokens) for s in batch))
        if len(batch) > 1:
            halves: list[Sequence[TokenSequence]] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            smaller = self._less(batch[0], shown)
            if isinstance(smaller, Score):
                return dict.fromkeys(batch[0].ends, smaller)
            halves = [*smaller]
        scores: dict[Place, Score] = {}
        for half in halves:
            scores |= self._score_batch(half, self._tensors(half), shown)
        return scores

    def _again_alone(self, scores: dict[Place, Score], shown: dict[Place, Shown]) -> dict[Place, Score]:
        """What ran out of memory, once more while no other image is held: so it does not depend on its neighbours."""
        failed: dict[int, Shown] = {}
        for place, score in scores.items():
            if score.reason == "out_of_memory":
                one = shown[place]
                failed.setdefault(id(one), Shown(one.image, {})).rows[place] = one.rows[place]
        again: dict[Place, Score] = {}
        for one in failed.values():
            for image_tokens in (None, *SMALLER_IMAGES):  # the image alone may be more than there is memory to prepare
                prepared = prepare(self._encoder, one, min(self.batch_tokens, LONGEST), image_tokens)
                if not any(score.reason == "out_of_memory" for score in prepared.refused.values()):
                    break
            again |= prepared.refused
            for sequence in prepared.sequences:
                again |= self._score_batch([sequence], self._tensors([sequence]), shown)
        return again

    def _less(self, sequence: TokenSequence, shown: dict[Place, Shown]) -> list[list[TokenSequence]] | Score:
        """The sequence's candidates in two halves; one alone, with an image of a quarter of the tokens."""
        rows = {place: shown[place].rows[place] for place in sequence.ends}
        places, pixels = list(rows), sequence.pixels
        if len(places) > 1:
            parts = [places[: len(places) // 2], places[len(places) // 2 :]]
            return [self._encoder.sequences({place: rows[place] for place in part}, pixels) for part in parts]
        image = shown[places[0]].image
        if pixels is not None and image is not None and len(pixels.tokens) >= 4:
            found = pixels_or_reason(self._encoder, image, len(pixels.tokens) // 4)
            if not isinstance(found, Score):
                return [self._encoder.sequences(rows, found)]
        return Score(None, "out_of_memory", f"{len(sequence.tokens)} tokens alone are more than the memory holds")

    def _values(self, tensors: Tensors) -> list[float] | None:
        """The model's output, candidate by candidate; None where memory ran out."""
        try:
            return self._forward(tensors)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if self.model.head.weight.is_cuda:
            torch.cuda.empty_cache()  # what lies there in pieces may be enough in one
        return None

    @torch.inference_mode()
    def _forward(self, tensors: Tensors) -> list[float]:
        device = self.model.head.weight.device
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        values: list[float] = self.model(**on_device).tolist()
        return values

    def _score(self, row: Row, pixels: Pixels | None, value: float) -> Score:
        if not math.isfinite(value):
            return Score(None, "not_finite", f"the model gave {value}")
        cut = self._encoder.length(row, pixels) > self._encoder.max_length
        self.truncated += cut
        downscaled = pixels is not None and pixels.downscaled
        notes = [name for name, holds in (("text_cut", cut), ("image_downscaled", downscaled)) if holds]
        return Score(value, note=", ".join(notes) or None)


def _own_tokens(shown: Shown) -> int:
    """Tokens of the sequence that the candidates make, the image's aside."""
    return max(row.prompt for row in shown.rows.values()) + sum(len(r.tokens) - r.prompt for r in shown.rows.values())
