"""Bare vectors as images: what is near is known without any picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Rows


class Vectors:
    """Unit rows with one view."""

    def __init__(self, vectors: Floats, threshold: float) -> None:
        self._vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.pixel_counts = np.ones(len(vectors), np.int64)
        self.candidate_threshold = threshold

    @property
    def vectors(self) -> Floats:
        return self._vectors

    def views(self, rows: Rows) -> Iterator[Floats]:
        yield self._vectors[rows]

    def similarity(self, rows: Rows, view: Rows, others: ImageSet, other_rows: Rows, cosine: Floats) -> Floats:
        return cosine
