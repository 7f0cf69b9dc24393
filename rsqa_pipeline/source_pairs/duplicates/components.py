"""Connected components of the near-duplicate pairs found; one image of each component is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rsqa_pipeline.source_pairs.duplicates.image_set import ImageSet, Ints
from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs


@dataclass(frozen=True)
class Components:
    """Components of near-duplicates among n images."""

    keeper: Ints
    """(n,) for each row, the row that its component keeps; the row itself if it has no near-duplicate."""
    evidence: dict[int, tuple[int, float]]
    """Row -> (the most similar near-duplicate found, similarity)."""


def find_components(images: ImageSet, among: Ints, rank: Sequence[Any], threshold: float) -> Components:
    """Joins the images in the rows ``among`` whose similarity is at least ``threshold``; each component keeps the image
    of lowest ``rank``.

    A query returns a limited number of neighbours. Images with more copies than that are searched again among the
    images kept, until nothing more merges.

    Args:
        rank: one comparable value per image, all different.
    """
    count = len(rank)
    evidence: dict[int, tuple[int, float]] = {}
    edges = np.empty((2, 0), np.int64)
    keeper, rows, kept = np.arange(count), among, among
    while len(rows) and len(kept) > 1:
        pairs = near_pairs(images, rows, images, kept, threshold)
        _record_evidence(evidence, pairs.first, pairs.second, pairs.similarity)
        edges = np.concatenate([edges, [pairs.first, pairs.second]], axis=1)
        keeper = keepers(count, edges, rank)
        if not len(pairs.first):
            break
        kept = np.intersect1d(keeper[among], among)
        rows = np.intersect1d(pairs.crowded, kept)
    return Components(keeper, evidence)


def keepers(count: int, edges: Ints, rank: Sequence[Any]) -> Ints:
    """(count,) the member of lowest rank in each member's connected component.

    Args:
        edges: (2, m) pairs of members.
    """
    graph = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(count, count))
    component_count, label = connected_components(graph, directed=False)
    best = np.full(component_count, -1)
    for member in sorted(range(count), key=lambda row: rank[row], reverse=True):
        best[label[member]] = member
    return np.asarray(best[label])


def _record_evidence(evidence: dict[int, tuple[int, float]], first: Ints, second: Ints, similarity: Any) -> None:
    for a, b, value in zip(first.tolist(), second.tolist(), similarity.tolist(), strict=True):
        for one, other in ((a, b), (b, a)):
            if one not in evidence or (value, -other) > (evidence[one][1], -evidence[one][0]):
                evidence[one] = (other, value)
