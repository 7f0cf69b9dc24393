"""Unit vectors of images and texts from a CLIP or another model that transformers supports, e.g. DINOv2 for images or
a sentence model for texts.

A CLIP returns its projected embeddings. Any other image model (of a SigLIP, the vision tower) returns its pooled output
or, if it has none, the mean of its last hidden states. Any other text model returns the mean over the tokens of a text,
as sentence models are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from rsqa_pipeline.models.clip_embeddings import Floats, embed_opened, embed_texts, unit_rows
from rsqa_pipeline.models.load import Clip, EmbeddingModel, is_clip, load_clip, load_embedding_model
from rsqa_pipeline.models.model_folder import reading
from rsqa_pipeline.profile import Compute

BATCH = 64


class ImageEmbedder(Protocol):
    """Embeds images as vectors of length 1."""

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        """(n, width) unit rows."""
        ...


class TextEmbedder(Protocol):
    """Embeds texts as vectors of length 1."""

    def __call__(self, texts: Sequence[str]) -> Floats:
        """(n, width) unit rows."""
        ...


def load_image_embedder(path_or_id: str | Path, compute: Compute) -> ImageEmbedder:
    """Raises ModelError if the model or its image processor cannot be read."""
    if is_clip(path_or_id):
        return _ClipImageEmbedder(load_clip(path_or_id, compute))
    embedding_model = load_embedding_model(path_or_id, compute)
    return _ImageModelEmbedder(embedding_model, _read_preprocessor(AutoImageProcessor, embedding_model.folder))


def load_text_embedder(path_or_id: str | Path, compute: Compute) -> TextEmbedder:
    """Raises ModelError if the model or its tokenizer cannot be read."""
    if is_clip(path_or_id):
        return _ClipTextEmbedder(load_clip(path_or_id, compute))
    embedding_model = load_embedding_model(path_or_id, compute)
    return _TextModelEmbedder(embedding_model, _read_preprocessor(AutoTokenizer, embedding_model.folder))


class _ClipImageEmbedder:
    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        return _batched(lambda batch: embed_opened(self._clip, batch), images)


class _ClipTextEmbedder:
    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __call__(self, texts: Sequence[str]) -> Floats:
        return embed_texts(self._clip, texts, BATCH)


class _ImageModelEmbedder:
    def __init__(self, embedding_model: EmbeddingModel, processor: Any) -> None:
        self._embedding_model, self._processor = embedding_model, processor

    def __call__(self, images: Sequence[Image.Image]) -> Floats:
        return _batched(self._embed, images)

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image.Image]) -> Floats:
        model = self._embedding_model.model
        model = getattr(model, "vision_model", model)  # of two towers, as SigLIP's, the one for images
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        output = model(pixel_values=pixels.to(model.device, model.dtype))
        pooled = output.get("pooler_output")
        if pooled is None:
            pooled = output["last_hidden_state"].mean(dim=1)
        return unit_rows(pooled.flatten(1).float().cpu().numpy())


class _TextModelEmbedder:
    def __init__(self, embedding_model: EmbeddingModel, tokenizer: Any) -> None:
        self._embedding_model, self._tokenizer = embedding_model, tokenizer

    def __call__(self, texts: Sequence[str]) -> Floats:
        return _batched(self._embed, texts)

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Floats:
        model = self._embedding_model.model
        limit = int(model.config.max_position_embeddings)
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        tokens = tokens.to(model.device)
        states = model(**tokens)["last_hidden_state"].float()
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        return unit_rows(((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy())


def _batched(embed: Any, items: Sequence[Any]) -> Floats:
    rows = [embed(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
    return np.concatenate(rows)


def _read_preprocessor(auto_class: Any, folder: Path) -> Any:
    with reading(folder, f"has no {auto_class.__name__} that can be read"):
        return auto_class.from_pretrained(folder)
