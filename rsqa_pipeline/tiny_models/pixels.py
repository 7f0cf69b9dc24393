"""Converts image batches to model inputs without the processors' per-image overhead, and augments them."""

from __future__ import annotations

import numpy as np
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rsqa_pipeline.tiny_models.architecture import MERGE, PATCH


def normalized(images: np.ndarray) -> torch.Tensor:
    """CLIP's pixel_values (b, 3, h, w) float32 of uint8 images (b, h, w, 3) that already have the model's size."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (pixels - mean) / deviation


def patches(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Qwen2-VL's pixel_values (b * patches, 3 * 2 * 8 * 8) and image_grid_thw (b, 3) of uint8 images (b, h, w, 3).

    The same values as the processor's, patches in its order: 2 x 2 neighbours that are merged later are adjacent,
    and each still image counts as two frames.
    """
    pixels = normalized(images)
    b, channels, height, width = pixels.shape
    rows, columns = height // PATCH, width // PATCH
    parts = pixels.view(b, channels, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH)
    parts = parts.permute(0, 2, 5, 3, 6, 1, 4, 7)
    frames = parts.unsqueeze(6).expand(*parts.shape[:6], 2, *parts.shape[6:])
    grid = torch.tensor([[1, rows, columns]]).expand(b, 3)
    return frames.reshape(b * rows * columns, -1), grid


def augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random quarter turns, flips and crops of square uint8 images (b, s, s, 3); overhead, all are equally likely."""
    size = images.shape[1]
    result = np.empty_like(images)
    for index, image in enumerate(images):
        rotated = np.rot90(image, int(rng.integers(4)))
        rotated = rotated[:, ::-1] if rng.random() < 0.5 else rotated
        side = int(rng.integers(round(0.7 * size), size + 1))
        top, left = rng.integers(size - side + 1, size=2)
        offsets = np.arange(size) * side // size
        result[index] = rotated[top + offsets][:, left + offsets]
    return result
