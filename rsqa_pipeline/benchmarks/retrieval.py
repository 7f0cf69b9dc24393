"""Image-text retrieval in both directions (paper, evaluation): recall at k over the whole test set.

An image has several captions. A sentence written for two images is one text with two relevant images. Other ties count
against the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class TestSet:
    """Images and the distinct texts of all their captions."""

    __test__ = False  # pytest: not a test class

    texts: list[str]
    """Distinct captions, in order of first appearance."""
    relevant: npt.NDArray[np.bool_]
    """(images, texts): the text was written for the image."""

    @classmethod
    def from_captions(cls, captions: Sequence[Sequence[str]]) -> TestSet:
        """Builds the set from the captions of each image. Raises ValueError if an image has none."""
        empty = [index for index, of_image in enumerate(captions) if not of_image]
        if empty:
            raise ValueError(f"retrieval items need at least one caption; {len(empty)} have none, first {empty[0]}")
        texts = list(dict.fromkeys(text for of_image in captions for text in of_image))
        column = {text: index for index, text in enumerate(texts)}
        relevant = np.zeros((len(captions), len(texts)), dtype=bool)
        for row, of_image in enumerate(captions):
            relevant[row, [column[text] for text in of_image]] = True
        return cls(texts, relevant)


def best_ranks(similarities: npt.NDArray[np.float32], relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(n,) rank of each query's best relevant candidate, 1 is best.

    The rank is 1 + the number of irrelevant candidates that do not score lower. Ties and NaN similarities therefore
    count against the model.

    Args:
        similarities: (n, candidates).
        relevant: (n, candidates), at least one true per row.
    """
    ranks = []
    for start in range(0, len(similarities), _CHUNK_ROWS):
        scores, right = similarities[start : start + _CHUNK_ROWS], relevant[start : start + _CHUNK_ROWS]
        best = np.where(right & ~np.isnan(scores), scores, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + (~right & ~(scores < best)).sum(axis=1))
    return np.concatenate(ranks)


def random_recall(relevant: npt.NDArray[np.bool_], k: int) -> npt.NDArray[np.float64]:
    """(n,) probability that a random ranking has a relevant candidate in the first k: 1 - C(m - r, k) / C(m, k)."""
    candidates, right = relevant.shape[1], relevant.sum(axis=1)
    wrong = candidates - right
    possible = wrong >= k
    log_miss = _log_choose(np.where(possible, wrong, k), k) - _log_choose(np.full_like(wrong, max(candidates, k)), k)
    return np.where(possible, 1.0 - np.exp(log_miss), 1.0)


def _log_choose(n: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return result
