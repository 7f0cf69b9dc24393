"""What near-duplicate search needs of a set of images, however they are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class ImageSet(Protocol):
    """Images as unit vectors; a query may show an image turned, mirrored or cropped."""

    candidate_threshold: float
    """Cosine of a query with a vector from which on a pair is looked at."""

    pixel_counts: Rows
    """(n,) width times height of the images as stored."""

    @property
    def vectors(self) -> Floats:
        """(n, width) unit rows, one an image."""
        ...

    def views(self, rows: Rows) -> Iterator[Floats]:
        """For each view, in an order that never changes, the query vectors (len(rows), width) of those images."""
        ...

    def similarity(self, rows: Rows, view: Rows, others: ImageSet, other_rows: Rows, cosine: Floats) -> Floats:
        """(m,) what each candidate pair is judged by, in [-1, 1]: image ``rows[i]``, which came up by its view
        ``view[i]``, and image ``other_rows[i]`` of ``others``; ``cosine`` is that of the search."""
        ...
