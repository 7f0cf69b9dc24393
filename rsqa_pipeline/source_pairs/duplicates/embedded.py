"""Compares images by a model's embeddings: cosine of an image's 8 orientations with another image (paper, preference
data: copy-detection embeddings, cosine > 0.65). The model itself must be robust to crops and to re-encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.embedding import BATCH, ImageEmbedder
from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Ints

ORIENTATIONS: tuple[Image.Transpose | None, ...] = (None, *Image.Transpose)


class EmbeddedImages:
    """Images as embeddings. Other orientations are embedded on demand: 8 model passes in total."""

    def __init__(self, references: Sequence[str], max_pixels: int, embed: ImageEmbedder, threshold: float) -> None:
        """Opens every image. Raises ImageFault if an image cannot be opened; ingest has decoded each of them."""
        self.candidate_threshold = threshold
        self._references, self._max_pixels, self._embed = references, max_pixels, embed
        self.pixel_counts = np.empty(len(references), np.int64)
        self._vectors = self._embed_rows(np.arange(len(references)), None)

    @property
    def vectors(self) -> Floats:
        return self._vectors

    def views(self, rows: Ints) -> Iterator[Floats]:
        for orientation in ORIENTATIONS:
            yield self._vectors[rows] if orientation is None else self._embed_rows(rows, orientation)

    def similarity(self, rows: Ints, view: Ints, others: ImageSet, other_rows: Ints, cosine: Floats) -> Floats:
        return cosine

    def _embed_rows(self, rows: Ints, orientation: Image.Transpose | None) -> Floats:
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            images = [open_image(self._references[row], self._max_pixels) for row in batch]
            self.pixel_counts[batch] = [image.width * image.height for image in images]
            parts.append(self._embed([i if orientation is None else i.transpose(orientation) for i in images]))
        return np.concatenate(parts)
