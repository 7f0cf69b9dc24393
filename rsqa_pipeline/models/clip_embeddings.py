"""Unit embeddings of images and texts by a CLIP or a SigLIP, as numpy rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import Clip
from rsqa_pipeline.models.two_towers import embed_tokens, project_images, tokenize

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
        return unit_rows(project_images(clip.model, pooled).float().cpu().numpy())


def embed_texts(clip: Clip, texts: Sequence[str], batch_size: int) -> Floats:
    """(n, width) unit rows; a text longer than the model's context is cut at the end."""
    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenize(clip, texts[start : start + batch_size])
        with torch.inference_mode():
            vectors = embed_tokens(clip.model, {name: ids.to(clip.model.device) for name, ids in tokens.items()})
            rows.append(vectors.float().cpu().numpy())
    return unit_rows(np.concatenate(rows))


def unit_rows(vectors: Floats) -> Floats:
    """Rows of length 1, (n, width); a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
