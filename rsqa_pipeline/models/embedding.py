"""Unit vectors of images and of texts by any encoder: a CLIP, or a model that transformers knows, such as DINOv2 for
images or a sentence model for texts.

A CLIP gives its projected embeddings. Another image model gives its pooled output, or, where it has none, the mean of
its last hidden states; another text model the mean over a text's tokens, as sentence models are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.clip_embeddings import Floats, embed_opened, embed_texts, unit_rows
from rsqa_pipeline.models.load import Clip, Encoder, is_clip, load_clip, load_encoder
from rsqa_pipeline.profile import Compute

BATCH = 64


class ImageEmbedder(Protocol):
    """Images to vectors of length 1."""

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        """(n, width) unit rows."""
        ...


class TextEmbedder(Protocol):
    """Texts to vectors of length 1."""

    def __call__(self, texts: Sequence[str]) -> Floats:
        """(n, width) unit rows."""
        ...


def load_image_embedder(path_or_id: str | Path, compute: Compute) -> ImageEmbedder:
    """Raises ModelError where the model or its image processor cannot be read."""
    if is_clip(path_or_id):
        return _ClipImages(load_clip(path_or_id, compute))
    encoder = load_encoder(path_or_id, compute)
    return _EncodedImages(encoder, _beside(AutoImageProcessor, encoder.folder))


def load_text_embedder(path_or_id: str | Path, compute: Compute) -> TextEmbedder:
    """Raises ModelError where the model or its tokenizer cannot be read."""
    if is_clip(path_or_id):
        return _ClipTexts(load_clip(path_or_id, compute))
    encoder = load_encoder(path_or_id, compute)
    return _EncodedTexts(encoder, _beside(AutoTokenizer, encoder.folder))


class _ClipImages:
    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        return _batched(lambda batch: embed_opened(self._clip, batch), images)


class _ClipTexts:
    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, texts: Sequence[str]) -> Floats:
        return embed_texts(self._clip, texts, BATCH)


class _EncodedImages:
    def __init__(self, encoder: Encoder, processor: Any) -> None:
        self._encoder, self._processor = encoder, processor

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        return _batched(self._embed, images)

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image.Image]) -> Floats:
        model = self._encoder.model
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        output = model(pixel_values=pixels.to(model.device, model.dtype))
        pooled = output.get("pooler_output")
        if pooled is None:
            pooled = output["last_hidden_state"].mean(dim=1)
        return unit_rows(pooled.flatten(1).float().cpu().numpy())


class _EncodedTexts:
    def __init__(self, encoder: Encoder, tokenizer: Any) -> None:
        self._encoder, self._tokenizer = encoder, tokenizer

    def __call__(self, texts: Sequence[str]) -> Floats:
        return _batched(self._embed, texts)

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Floats:
        model = self._encoder.model
        limit = int(model.config.max_position_embeddings)
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(model.device)
        states = model(**tokens)["last_hidden_state"].float()
        real = tokens["attention_mask"].unsqueeze(-1).float()
        return unit_rows(((states * real).sum(1) / real.sum(1).clamp(min=1)).cpu().numpy())


def _batched(embed: Any, items: Sequence[Any]) -> Floats:
    rows = [embed(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
    return np.concatenate(rows)


def _beside(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: {kind.__name__} finds nothing to read: {error}") from error
