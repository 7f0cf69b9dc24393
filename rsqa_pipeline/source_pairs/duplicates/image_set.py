"""Interface of a set of images for near-duplicate search, independent of how images are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class ImageSet(Protocol):
    """Images as unit vectors; a query may be a rotated, mirrored or cropped view of an image."""

    candidate_threshold: float
    """Minimum cosine of a query and a vector that makes the pair a candidate."""

    pixel_counts: Ints
    """(n,) width x height of the images as stored, pixels."""

    @property
    def vectors(self) -> Floats:
        """(n, width) unit vectors, one per image."""
        ...

    def views(self, rows: Ints) -> Iterator[Floats]:
        """Yields, for each view in a fixed order, the query vectors of these images, (len(rows), width)."""
        ...

    def similarity(self, rows: Ints, view: Ints, others: ImageSet, other_rows: Ints, cosine: Floats) -> Floats:
        """(m,) the similarity of each candidate pair, in [-1, 1]. Pair i is image ``rows[i]``, found through its view
        ``view[i]``, and image ``other_rows[i]`` of ``others``. ``cosine`` comes from the search."""
        ...
