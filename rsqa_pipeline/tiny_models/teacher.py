"""A pretrained image encoder whose features the small models' vision towers learn to predict.

A few thousand images are too few to learn to see from scratch; a pretrained encoder has seen millions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.embedding import BATCH, load_image_embedder
from rsqa_pipeline.models.embedding_cache import EmbeddingCache
from rsqa_pipeline.models.load import local_folder, weights_version
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.efficientnet_lite import efficientnet_lite0

EFFICIENTNET_LITE0 = "efficientnet-lite0"


class Teacher:
    """Features of images, each computed once and kept in a folder by the image's hash and the encoder's version."""

    def __init__(self, name: str, state: Path, compute: Compute) -> None:
        """
        Args:
            name: ``efficientnet-lite0`` (extra ``real``), or the folder or hub id of an image encoder or CLIP.
            state: folder for the features, and for the converted ``efficientnet-lite0``; a killed run resumes from it.

        Raises:
            ModelError: no such model, or the extra ``real`` is not installed.
        """
        self._folder = efficientnet_lite0(state / name) if name == EFFICIENTNET_LITE0 else local_folder(name)
        self._compute = compute
        self.version = weights_version(self._folder)
        self._cache = EmbeddingCache(state / "features", self.version)

    def features(self, images: Mapping[str, str]) -> np.ndarray:
        """Standardized features (images, width) float32: mean 0 and deviation 1 over the images, in their order.

        Args:
            images: hash of each image -> its reference. The encoder sees the middle square, as the small models do.

        Raises:
            ModelError: the encoder or its image processor cannot be read.
            ImageFault: an image that ingest accepted can no longer be read.
        """
        kept = {image_id: self._cache.get(image_id) for image_id in images}
        vectors = {image_id: vector.numpy() for image_id, vector in kept.items() if vector is not None}
        missing = [image_id for image_id in images if image_id not in vectors]
        if missing:
            embed = load_image_embedder(self._folder, self._compute)
            for start in tqdm(range(0, len(missing), BATCH), "teacher", unit="batch", leave=False):
                batch = missing[start : start + BATCH]
                for image_id, vector in zip(batch, embed([_square(images[i]) for i in batch]), strict=True):
                    vectors[image_id] = vector
                    self._cache.put(image_id, torch.from_numpy(vector))
        features = np.stack([vectors[image_id] for image_id in images])
        deviation = features.std(axis=0)
        return (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _square(reference: str) -> Image.Image:
    image = open_image(reference)
    return ImageOps.fit(image, (min(image.size), min(image.size)))
