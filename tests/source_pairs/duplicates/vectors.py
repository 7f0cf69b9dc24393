"""Plain vectors as an image set: near pairs are known without any images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Ints


class Vectors:
    """Unit vectors with one view."""

    def __init__(self, vectors: Floats, threshold: float) -> None:
        self._vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.pixel_counts = np.ones(len(vectors), np.int64)
        self.candidate_threshold = threshold

    @property
    def vectors(self) -> Floats:
        return self._vectors

    def views(self, rows: Ints) -> Iterator[Floats]:
        yield self._vectors[rows]

    def similarity(self, rows: Ints, view: Ints, others: ImageSet, other_rows: Ints, cosine: Floats) -> Floats:
        return cosine
