"""CLIP score: the cosine between a CLIP's embeddings of image and text (paper, curation: the baseline selector).

The text of a question-answer sample is its last question, a space and the answer; the text of a caption is the caption.
A text longer than the model's context is handled in one of two ways. ``truncate`` cuts it at the end, notes this in its
score and counts it. ``windowed_mean`` splits it into consecutive windows of the context length and averages their unit
vectors.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from rsqa_pipeline.images.decode import ImageFault, content_hash, open_image
from rsqa_pipeline.models.embedding_cache import EmbeddingCache
from rsqa_pipeline.models.load import Clip, load_clip
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.models.two_towers import embed_tokens, project_images, text_context, tokenize
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.curated_subsets import ClipText
from rsqa_pipeline.records import Message


class ClipScorer:
    """Scores groups of candidate texts by their cosine with the group's image, using a CLIP or a SigLIP."""

    def __init__(
        self, clip: Clip, batch_size: int, long_text: ClipText = "truncate", embeddings: Path | None = None
    ) -> None:
        """
        Args:
            batch_size: images per batch, and texts per batch.
            embeddings: folder that caches image vectors by the image's hash; None disables the cache.
        """
        self._clip = clip
        self._batch_size = batch_size
        self._long_text = long_text
        self._cache = EmbeddingCache(embeddings, clip.version) if embeddings else None
        self.version = clip.version
        self.context = text_context(clip.model)
        """Maximum text length in tokens, start and end tokens included."""
        self.truncated = 0
        """Number of texts cut to the context so far."""

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        compute: Compute,
        batch_size: int,
        long_text: ClipText = "truncate",
        embeddings: Path | None = None,
    ) -> ClipScorer:
        """Raises ModelError like `load_clip`."""
        return cls(load_clip(path_or_id, compute), batch_size, long_text, embeddings)

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        """Cosine in [-1, 1] of every candidate with its image, in the order of the groups; None if it has no score."""
        return [[score.value for score in of_group] for of_group in self.score_or_reason(groups)]

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        """Like `score`, but a missing score has a reason: that of an `ImageFault`, ``no_image`` or ``not_finite``.

        An image that several groups share by reference is embedded once, and so is a repeated text. A text cut to
        the context has the note ``text_cut``.
        """
        images = self._image_vectors(groups)
        texts = [[candidate_text(group.context, text) for text in group.candidates] for group in groups]
        distinct = list(dict.fromkeys(text for of_group in texts for text in of_group))
        vectors: dict[str, torch.Tensor] = {}
        cut: set[str] = set()
        for start in range(0, len(distinct), self._batch_size):
            batch = distinct[start : start + self._batch_size]
            vectors.update(zip(batch, self._text_vectors(batch), strict=True))
            if self._long_text == "truncate":
                lengths = map(len, self._clip.tokenizer(batch)["input_ids"])
                cut.update(text for text, length in zip(batch, lengths, strict=True) if length > self.context)
        self.truncated += len(cut)
        return [
            [
                _cosine(images[_image_key(group.image)], vectors[text], "text_cut" if text in cut else None)
                for text in of_group
            ]
            for group, of_group in zip(groups, texts, strict=True)
        ]

    def _image_vectors(self, groups: Sequence[ScoringGroup]) -> dict[Hashable, torch.Tensor | Score]:
        """Unit vector (width,) of each distinct image by its key, or the reason why it has none."""
        images = {_image_key(group.image): group.image for group in groups}
        vectors: dict[Hashable, torch.Tensor | Score] = {}
        pending: dict[Hashable, _OpenedImage] = {}
        for key, image in images.items():
            found = self._cached_or_opened(image)
            if isinstance(found, _OpenedImage):
                pending[key] = found
            else:
                vectors[key] = found
            if len(pending) == self._batch_size:
                vectors.update(self._embed(pending))
                pending = {}
        if pending:
            vectors.update(self._embed(pending))
        return vectors

    def _cached_or_opened(self, image: str | Image.Image | None) -> torch.Tensor | Score | _OpenedImage:
        if image is None:
            return Score(None, "no_image", "a CLIP score needs an image")
        if isinstance(image, Image.Image):
            return _OpenedImage(image, None)
        try:
            if self._cache is None:
                return _OpenedImage(open_image(image), None)
            image_hash = content_hash(image)
            cached = self._cache.get(image_hash)
            return cached if cached is not None else _OpenedImage(open_image(image), image_hash)
        except ImageFault as fault:
            return Score(None, fault.reason, fault.detail)

    def _embed(self, opened: dict[Hashable, _OpenedImage]) -> dict[Hashable, torch.Tensor]:
        vectors = self._embed_images([one.image for one in opened.values()])
        for one, vector in zip(opened.values(), vectors, strict=True):
            if self._cache is not None and one.image_hash is not None and bool(vector.isfinite().all()):
                self._cache.put(one.image_hash, vector)
        return dict(zip(opened, vectors, strict=True))

    @torch.inference_mode()
    def _embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        model = self._clip.model
        pixels = self._clip.image_processor(images=images, return_tensors="pt")["pixel_values"]
        pooled = model.vision_model(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
        return _unit(project_images(model, pooled))

    def _text_vectors(self, texts: list[str]) -> torch.Tensor:
        """(texts, width) unit vectors; a text in several windows gets the normalized mean of their vectors."""
        windows = tokenize(self._clip, texts, windows=self._long_text == "windowed_mean")
        parts = [
            self._embed_tokens({name: ids[start : start + self._batch_size] for name, ids in windows.items()})
            for start in range(0, len(windows["input_ids"]), self._batch_size)
        ]
        vectors = torch.cat(parts)
        if self._long_text == "truncate":
            return vectors
        sums = torch.zeros(len(texts), vectors.shape[1])
        return _unit(sums.index_add(0, windows["overflow_to_sample_mapping"], vectors))

    @torch.inference_mode()
    def _embed_tokens(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        model = self._clip.model
        return _unit(embed_tokens(model, {name: ids.to(model.device) for name, ids in tokens.items()}))


@dataclass(frozen=True)
class _OpenedImage:
    """A decoded image, with its hash if its vector is to be cached."""

    image: Image.Image
    image_hash: str | None


def candidate_text(context: Sequence[Message], candidate: str) -> str:
    """Text to embed: "question candidate", where the question is the last user turn; the candidate alone without one.

    Example: ``[{"role": "user", "content": "How many ships are there?"}], "3"`` gives "How many ships are there? 3".
    """
    questions = [message["content"] for message in context if message["role"] == "user"]
    return f"{questions[-1]} {candidate}" if questions else candidate


def _image_key(image: str | Image.Image | None) -> Hashable:
    return id(image) if isinstance(image, Image.Image) else image


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """(b, width) float32 rows of length 1, on the CPU."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def _cosine(image: torch.Tensor | Score, text: torch.Tensor, note: str | None) -> Score:
    if isinstance(image, Score):
        return image
    cosine = float(image @ text)
    if not math.isfinite(cosine):
        return Score(None, "not_finite", f"the cosine is {cosine}")
    return Score(max(-1.0, min(1.0, cosine)), note=note)
