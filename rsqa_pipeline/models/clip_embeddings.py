"""Unit embeddings of images and texts by a CLIP, as numpy rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import Clip

Floats = npt.NDArray[np.float32]


def embed_images(clip: Clip, references: Sequence[str], batch_size: int) -> Floats:
    """(n, width) unit rows. Raises ImageFault if an image cannot be opened; ingest has decoded every image once."""
    rows = []
    for start in range(0, len(references), batch_size):
        rows.append(embed_opened(clip, [open_image(name) for name in references[start : start + batch_size]]))
    return np.concatenate(rows)


def embed_opened(clip: Clip, images: Sequence[Image.Image]) -> Floats:
    """(n, width) unit rows of one batch of images."""
    pixels = clip.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        pooled = clip.model.vision_model(pixel_values=pixels.to(clip.model.device, clip.model.dtype)).pooler_output
        return unit_rows(clip.model.visual_projection(pooled).float().cpu().numpy())


def embed_texts(clip: Clip, texts: Sequence[str], batch_size: int) -> Floats:
    """(n, width) unit rows; a text longer than the model's context is cut at the end."""
    context = int(clip.model.config.text_config.max_position_embeddings)
    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = clip.tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            truncation=True,
            max_length=context,
            return_tensors="pt",
        ).to(clip.model.device)
        with torch.inference_mode():
            pooled = clip.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            rows.append(clip.model.text_projection(pooled).float().cpu().numpy())
    return unit_rows(np.concatenate(rows))


def unit_rows(vectors: Floats) -> Floats:
    """Rows of length 1, (n, width); a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
