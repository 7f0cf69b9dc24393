"""Groups of near-duplicates: the connected components of the pairs found, one member of each kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Rows
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs


@dataclass(frozen=True)
class Groups:
    """Near-duplicates among n images."""

    keeper: Rows
    """(n,) the row that is kept of each row's component; its own where it has no near-duplicate."""
    evidence: dict[int, tuple[int, float]]
    """Row -> its most similar near-duplicate found, and the similarity."""


def group(images: ImageSet, among: Rows, rank: Sequence[Any], threshold: float) -> Groups:
    """Components of the pairs of images in the rows ``among`` whose similarity reaches ``threshold``; of each, the
    member of least ``rank`` is kept.

    A query looks at a limited number of neighbours, so images with very many copies are searched for again among those
    kept, until that merges nothing more.

    Args:
        rank: one comparable value an image, no two alike.
    """
    count = len(rank)
    evidence: dict[int, tuple[int, float]] = {}
    edges = np.empty((2, 0), np.int64)
    keeper, rows, left = np.arange(count), among, among
    while len(rows) and len(left) > 1:
        pairs = near_pairs(images, rows, images, left, threshold)
        _note(evidence, pairs.first, pairs.second, pairs.similarity)
        edges = np.concatenate([edges, [pairs.first, pairs.second]], axis=1)
        keeper = keepers(count, edges, rank)
        if not len(pairs.first):
            break
        left = np.intersect1d(keeper[among], among)
        rows = np.intersect1d(pairs.crowded, left)
    return Groups(keeper, evidence)


def keepers(count: int, edges: Rows, rank: Sequence[Any]) -> Rows:
    """(count,) the member of least rank in each one's connected component.

    Args:
        edges: (2, m) pairs of members.
    """
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(count, count))
    components, label = connected_components(graph, directed=False)
    best = np.full(components, -1)
    for member in sorted(range(count), key=lambda row: rank[row], reverse=True):
        best[label[member]] = member
    return np.asarray(best[label])


def _note(evidence: dict[int, tuple[int, float]], first: Rows, second: Rows, similarity: Any) -> None:
    for a, b, value in zip(first.tolist(), second.tolist(), similarity.tolist(), strict=True):
        for one, other in ((a, b), (b, a)):
            if one not in evidence or (value, -other) > (evidence[one][1], -evidence[one][0]):
                evidence[one] = (other, value)
