"""The only scorer: curation, rewards, best-of-N and evaluation all use it.

Candidates of one image share a sequence, so image and context are run once. Batches are filled with sequences of
similar length up to a token budget, while threads open the next images. A score depends only on its own image, context
and candidate: not on the batch, its order or its padding, nor on the other candidates in the sequence.
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

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import device_of, local_folder, weights_version
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.inputs.sequences import CandidateIndex, Pixels, TokenSequence
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.batches import in_batches
from rsqa_pipeline.score_model.scoring.image_loading import (
    CandidatesOfImage,
    out_of_memory,
    pixels_or_reason,
    prefetch_one,
    prepare,
    prepare_ahead,
)

log = logging.getLogger(__name__)

PROGRESS_FROM = 2_000
"""Number of candidates from which a progress bar is shown; fewer take only seconds."""
FALLBACK_IMAGE_TOKENS = (1024, 256)
"""Maximum image tokens, tried in this order where memory runs out while an image is prepared."""
LENGTH_CLASS = 16
"""Tokens by which texts may differ and still count as equally long."""
MAX_SEQUENCE_TOKENS = 4096
"""Maximum tokens of a sequence with several candidates. Attention also computes what its mask hides, and that part
grows with the length."""

Tensors = dict[str, Tensor]
Output = tuple[float, float | None]
"""Score before the correction for length, and spread of the bootstrap heads if the model has them."""


class Scorer:
    """Scores groups of candidates with a score model."""

    def __init__(
        self, model: ScoreModel, processor: ProcessorMixin, max_length: int, version: str, batch_tokens: int
    ) -> None:
        """
        Args:
            max_length: maximum tokens per text, including its image's; a longer text is cut at its end.
            batch_tokens: tokens scored at once, including padding and image tokens.
        """
        self.model = model
        self.version = version
        """Hash of the model's weights; stored with every score."""
        self.batch_tokens = batch_tokens
        self.truncated = 0
        """Number of texts cut to the context's length so far."""
        self._encoder = encoder_for(processor, max_length)

    @classmethod
    def load(cls, path_or_id: str | Path, compute: Compute) -> Scorer:
        """A scorer from a folder (or hub id) in our layout or the released one, with its processor.

        The backbone runs in the profile's dtype, the head always in float32. Texts are cut to the length that the model
        was trained with, which its tokenizer stores.

        Raises:
            ModelError: the checkpoint does not exist or cannot be used.
        """
        folder = local_folder(path_or_id)
        model = ScoreModel.from_pretrained(folder)
        model.backbone.to(getattr(torch, compute.dtype))
        processor = read_processor(folder)
        max_length = processor.tokenizer.model_max_length
        return cls(model.to(device_of(compute)), processor, max_length, weights_version(folder), compute.batch_tokens)

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        """Score of every candidate, in the groups' order; None where there is no score.

        Unbounded, or above 0 for a model with softplus; corrected for length if the model has slopes for it.
        """
        return [[score.value for score in of_group] for of_group in self.score_or_reason(groups)]

    def lower_bounds(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        """As `score`, but the lower bound of each score (`Score.lower_bound`).

        Raises:
            ModelError: the model has no bootstrap heads.
        """
        if self.model.additions.heads is None:
            raise ModelError(
                "a lower bound needs a score model with bootstrap heads; set score_model.bootstrap_heads and train it"
            )
        return [[score.lower_bound for score in of_group] for of_group in self.score_or_reason(groups)]

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        """As `score`, with the reason of each missing score and a note on each score that needs one.

        Reasons of missing scores: an `ImageFault`'s; ``no_user_turn``, there is an image but no turn to show it in;
        ``context_too_long``, image and context leave the text no room, however small the image is made;
        ``out_of_memory``, not even the text alone with a small image could be run; ``not_finite``.

        Notes: ``text_cut``, the end of the text was cut to fit the context; ``image_downscaled``, the image was made
        smaller than in training to leave the text room or to fit the memory.
        """
        scores: dict[CandidateIndex, Score] = {}
        by_candidate = self._group_by_image(groups, scores)
        candidates = sum(len(group.candidates) for group in groups)
        training = self.model.training
        self.model.eval()
        try:
            with tqdm(total=candidates, desc="score", unit="text", disable=candidates < PROGRESS_FROM) as bar:
                for batch, tensors in prefetch_one(self._batches(by_candidate, scores)):
                    scores.update(self._score_batch(batch, tensors, by_candidate))
                    bar.update(len(scores) - bar.n)
            scores |= self._retry_alone(scores, by_candidate)
        finally:
            self.model.train(training)
        return [[scores[g, c] for c in range(len(group.candidates))] for g, group in enumerate(groups)]

    def _group_by_image(
        self, groups: Sequence[ScoringGroup], scores: dict[CandidateIndex, Score]
    ) -> dict[CandidateIndex, CandidatesOfImage]:
        """Candidate -> the candidates of its image, shorter ones first; adds those that cannot be shown to
        ``scores``."""
        by_image: dict[str | int | CandidateIndex, CandidatesOfImage] = {}
        for g, group in enumerate(groups):
            image = group.image
            key = id(image) if isinstance(image, Image.Image) else image
            try:
                rows = self._encoder.rows(group.context, group.candidates, key)
            except ValueError as error:
                scores |= {(g, c): Score(None, "no_user_turn", str(error)) for c in range(len(group.candidates))}
                continue
            for c, row in enumerate(rows):
                by_image.setdefault((g, c) if key is None else key, CandidatesOfImage(image, {})).rows[g, c] = row
        ordered = sorted(
            by_image.values(), key=lambda of_image: (_own_tokens(of_image) // LENGTH_CLASS, min(of_image.rows))
        )
        return {index: of_image for of_image in ordered for index in of_image.rows}

    def _batches(
        self, by_candidate: dict[CandidateIndex, CandidatesOfImage], scores: dict[CandidateIndex, Score]
    ) -> Iterator[tuple[list[TokenSequence], Tensors | None]]:
        """Batches with their tensors, or None where memory ran out for them; adds refused candidates to ``scores``."""

        def arriving() -> Iterator[list[TokenSequence]]:
            distinct = {id(of_image): of_image for of_image in by_candidate.values()}.values()
            for prepared in prepare_ahead(self._encoder, distinct, min(self.batch_tokens, MAX_SEQUENCE_TOKENS)):
                scores.update(prepared.refused)
                yield prepared.sequences

        for batch in in_batches(arriving(), self.batch_tokens):
            yield batch, self._tensors(batch)

    def _tensors(self, batch: Sequence[TokenSequence]) -> Tensors | None:
        """The batch as the model's arguments, still in the machine's memory; None where that ran out."""
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
        self,
        batch: Sequence[TokenSequence],
        tensors: Tensors | None,
        by_candidate: dict[CandidateIndex, CandidatesOfImage],
    ) -> dict[CandidateIndex, Score]:
        """Scores of the batch. Where memory runs out, scores its halves, and finally one text with a smaller image."""
        outputs = self._outputs(tensors) if tensors is not None else None
        if outputs is not None:
            candidates = [(index, sequence.pixels) for sequence in batch for index in sequence.ends]
            scored = zip(candidates, outputs, strict=True)
            return {
                index: self._score(by_candidate[index].rows[index], pixels, *output)
                for (index, pixels), output in scored
            }
        log.warning("out of memory at %d tokens; continuing with smaller batches", sum(len(s.tokens) for s in batch))
        if len(batch) > 1:
            halves: list[Sequence[TokenSequence]] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            smaller = self._split_or_shrink(batch[0], by_candidate)
            if isinstance(smaller, Score):
                return dict.fromkeys(batch[0].ends, smaller)
            halves = [*smaller]
        scores: dict[CandidateIndex, Score] = {}
        for half in halves:
            scores |= self._score_batch(half, self._tensors(half), by_candidate)
        return scores

    def _retry_alone(
        self, scores: dict[CandidateIndex, Score], by_candidate: dict[CandidateIndex, CandidatesOfImage]
    ) -> dict[CandidateIndex, Score]:
        """Scores of those that ran out of memory, now with no other image held, so that neighbours have no
        influence."""
        failed: dict[int, CandidatesOfImage] = {}
        for index, score in scores.items():
            if score.reason == "out_of_memory":
                of_image = by_candidate[index]
                failed.setdefault(id(of_image), CandidatesOfImage(of_image.image, {})).rows[index] = of_image.rows[
                    index
                ]
        again: dict[CandidateIndex, Score] = {}
        for of_image in failed.values():
            for image_tokens in (None, *FALLBACK_IMAGE_TOKENS):  # preparing the image alone may exceed the memory
                prepared = prepare(self._encoder, of_image, min(self.batch_tokens, MAX_SEQUENCE_TOKENS), image_tokens)
                if not any(score.reason == "out_of_memory" for score in prepared.refused.values()):
                    break
            again |= prepared.refused
            for sequence in prepared.sequences:
                again |= self._score_batch([sequence], self._tensors([sequence]), by_candidate)
        return again

    def _split_or_shrink(
        self, sequence: TokenSequence, by_candidate: dict[CandidateIndex, CandidatesOfImage]
    ) -> list[list[TokenSequence]] | Score:
        """The sequence's candidates in two halves; a single one with an image of a quarter of the tokens."""
        rows = {index: by_candidate[index].rows[index] for index in sequence.ends}
        candidates, pixels = list(rows), sequence.pixels
        if len(candidates) > 1:
            parts = [candidates[: len(candidates) // 2], candidates[len(candidates) // 2 :]]
            return [self._encoder.sequences({index: rows[index] for index in part}, pixels) for part in parts]
        image = by_candidate[candidates[0]].image
        if pixels is not None and image is not None and len(pixels.tokens) >= 4:
            found = pixels_or_reason(self._encoder, image, len(pixels.tokens) // 4)
            if not isinstance(found, Score):
                return [self._encoder.sequences(rows, found)]
        return Score(None, "out_of_memory", f"{len(sequence.tokens)} tokens alone are more than the memory holds")

    def _outputs(self, tensors: Tensors) -> list[Output] | None:
        """The model's output for each candidate; None where memory ran out."""
        try:
            return self._forward(tensors)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if self.model.head.weight.is_cuda:
            torch.cuda.empty_cache()  # memory cached in fragments may be enough once freed
        return None

    @torch.inference_mode()
    def _forward(self, tensors: Tensors) -> list[Output]:
        device = self.model.head.weight.device
        on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        if self.model.additions.heads is None:
            return [(value, None) for value in self.model(**on_device).tolist()]
        pooled = self.model.pooled(**on_device)
        spreads = self.model.read_spreads(pooled)
        assert spreads is not None
        return list(zip(self.model.read_scores(pooled).tolist(), spreads.tolist(), strict=True))

    def _score(self, row: CandidateRow, pixels: Pixels | None, value: float, spread: float | None) -> Score:
        tokens = len(row.tokens) - row.prompt
        value -= self.model.additions.length_correction(row.kind, tokens)
        if not math.isfinite(value):
            return Score(None, "not_finite", f"the model gave {value}")
        cut = self._encoder.length(row, pixels) > self._encoder.max_length
        self.truncated += cut
        downscaled = pixels is not None and pixels.downscaled
        notes = [name for name, holds in (("text_cut", cut), ("image_downscaled", downscaled)) if holds]
        return Score(value, note=", ".join(notes) or None, spread=spread, tokens=tokens)


def _own_tokens(of_image: CandidatesOfImage) -> int:
    """Tokens of the sequence that the candidates make, without the image's."""
    return max(row.prompt for row in of_image.rows.values()) + sum(
        len(r.tokens) - r.prompt for r in of_image.rows.values()
    )
