"""CLIP score: the cosine between a CLIP's embeddings of image and text (paper, curation: the baseline selector).

The text of a question-answer sample is its last question, a space and the answer; a caption's is the caption. A text
longer than the CLIP's context is cut at the end and counted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from PIL import Image

from rsqa_pipeline.images import ImageFault, open_image
from rsqa_pipeline.models.load import Clip, load_clip
from rsqa_pipeline.models.scoring_group import Group, Score
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message


class ClipScorer:
    """Scores groups of candidate texts by their cosine with the group's image."""

    def __init__(self, clip: Clip, batch_size: int) -> None:
        """
        Args:
            batch_size: images, and texts, embedded at once.
        """
        self._clip = clip
        self._batch_size = batch_size
        self.version = clip.version
        self.context = int(clip.model.config.text_config.max_position_embeddings)
        """Longest text that the model reads, in tokens, the two end marks included."""
        self.truncated = 0
        """Texts cut to the context so far."""

    @classmethod
    def load(cls, path_or_id: str | Path, compute: Compute, batch_size: int) -> ClipScorer:
        """Raises ModelError as `load_clip`."""
        return cls(load_clip(path_or_id, compute), batch_size)

    def score(self, groups: Sequence[Group]) -> list[list[float | None]]:
        """Cosine in [-1, 1] of every candidate with its image, in the groups' order; None where there is none."""
        return [[score.value for score in of_group] for of_group in self.score_or_reason(groups)]

    def score_or_reason(self, groups: Sequence[Group]) -> list[list[Score]]:
        """As `score`, with the reason beside every missing score: an `ImageFault`'s, ``no_image`` or ``not_finite``.

        An image that several groups name by the same reference is embedded once; so is a text that stands twice.
        A text cut to the context has the note ``text_cut``.
        """
        images = self._image_vectors(groups)
        texts = [[candidate_text(group.context, text) for text in group.candidates] for group in groups]
        vectors, cut = self._text_vectors(list(dict.fromkeys(text for of_group in texts for text in of_group)))
        return [
            [_cosine(images[_image_key(group.image)], vectors[text], text in cut) for text in of_group]
            for group, of_group in zip(groups, texts, strict=True)
        ]

    def _image_vectors(self, groups: Sequence[Group]) -> dict[Hashable, torch.Tensor | Score]:
        """Unit vector (width,) of each distinct image by its key, or why it has none."""
        images = {_image_key(group.image): group.image for group in groups}
        vectors: dict[Hashable, torch.Tensor | Score] = {}
        waiting = list(images.items())
        for start in range(0, len(waiting), self._batch_size):
            usable: dict[Hashable, Image.Image] = {}
            for key, image in waiting[start : start + self._batch_size]:
                opened = _opened(image)
                if isinstance(opened, Score):
                    vectors[key] = opened
                else:
                    usable[key] = opened
            if usable:
                vectors.update(zip(usable, self._embed_images(list(usable.values())), strict=True))
        return vectors

    @torch.inference_mode()
    def _embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        model = self._clip.model
        pixels = self._clip.image_processor(images=images, return_tensors="pt")["pixel_values"]
        pooled = model.vision_model(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
        return _unit(model.visual_projection(pooled))

    def _text_vectors(self, texts: Sequence[str]) -> tuple[dict[str, torch.Tensor], set[str]]:
        """Unit vector (width,) of each distinct text, and the texts that were cut to the context."""
        vectors: dict[str, torch.Tensor] = {}
        cut: set[str] = set()
        model = self._clip.model
        for start in range(0, len(texts), self._batch_size):
            batch = list(texts[start : start + self._batch_size])
            lengths = map(len, self._clip.tokenizer(batch)["input_ids"])
            cut.update(text for text, length in zip(batch, lengths, strict=True) if length > self.context)
            tokens = self._clip.tokenizer(
                batch, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
            ).to(model.device)
            with torch.inference_mode():
                pooled = model.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                vectors.update(zip(batch, _unit(model.text_projection(pooled)), strict=True))
        self.truncated += len(cut)
        return vectors, cut


def candidate_text(context: Sequence[Message], candidate: str) -> str:
    """What stands for a candidate: "question candidate", the question being the last user turn; without one, itself.

    Example: ``[{"role": "user", "content": "How many ships are there?"}], "3"`` gives "How many ships are there? 3".
    """
    questions = [message["content"] for message in context if message["role"] == "user"]
    return f"{questions[-1]} {candidate}" if questions else candidate


def _image_key(image: str | Image.Image | None) -> Hashable:
    return id(image) if isinstance(image, Image.Image) else image


def _opened(image: str | Image.Image | None) -> Image.Image | Score:
    if image is None:
        return Score(None, "no_image", "a CLIP score needs an image")
    if isinstance(image, Image.Image):
        return image
    try:
        return open_image(image)
    except ImageFault as fault:
        return Score(None, fault.reason, fault.detail)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """(b, width) float32 rows of length 1, on the CPU."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


def _cosine(image: torch.Tensor | Score, text: torch.Tensor, cut: bool) -> Score:
    if isinstance(image, Score):
        return image
    cosine = float(image @ text)
    if not math.isfinite(cosine):
        return Score(None, "not_finite", f"the cosine is {cosine}")
    return Score(max(-1.0, min(1.0, cosine)), note="text_cut" if cut else None)
