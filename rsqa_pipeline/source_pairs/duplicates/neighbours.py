"""Finds pairs of near images by approximate nearest-neighbour search in blocks, never all pairs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Ints

NEIGHBOURS = 32
"""Neighbours returned per query."""
BLOCK = 4096
"""Images searched at once: at most BLOCK x views x NEIGHBOURS candidates are in memory."""
EXACT_BELOW = 10_000
"""Fewer images than this are searched exhaustively. From this number on, only the cells nearest to the query are."""
CELLS_SEARCHED = 16
_TRAINING_ROWS_PER_CELL = 39  # the minimum that faiss asks for


@dataclass(frozen=True)
class NearPairs:
    """Pairs found, listed once for each side that found them."""

    first: Ints
    second: Ints
    similarity: Floats
    crowded: Ints
    """Rows with the maximum number of candidates: they may have more."""


def near_pairs(queries: ImageSet, rows: Ints, database: ImageSet, database_rows: Ints, threshold: float) -> NearPairs:
    """Finds pairs (row of ``queries``, row of ``database``) with a similarity of at least ``threshold``. If both
    sets are the same object, an image is not paired with itself.

    Args:
        rows, database_rows: the images to search with, and the images to search in.
    """
    index = _index(database.vectors[database_rows])
    blocks = [
        _search_block(queries, rows[start : start + BLOCK], database, database_rows, index, threshold)
        for start in range(0, len(rows), BLOCK)
    ]
    return NearPairs(
        np.concatenate([np.empty(0, np.int64), *(block.first for block in blocks)]),
        np.concatenate([np.empty(0, np.int64), *(block.second for block in blocks)]),
        np.concatenate([np.empty(0, np.float32), *(block.similarity for block in blocks)]),
        np.concatenate([np.empty(0, np.int64), *(block.crowded for block in blocks)]),
    )


def _index(vectors: Floats) -> Any:
    import faiss  # only profiles that look for near-duplicates need it

    count, width = vectors.shape
    index: Any = faiss.IndexFlatIP(width)
    if count >= EXACT_BELOW:
        cells = min(int(4 * count**0.5), count // _TRAINING_ROWS_PER_CELL)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = CELLS_SEARCHED
        sample = np.random.default_rng(0).permutation(count)[: cells * _TRAINING_ROWS_PER_CELL]
        index.train(vectors[np.sort(sample)])
    for start in range(0, count, 1 << 16):  # add() copies its input
        index.add(vectors[start : start + (1 << 16)])
    return index


def _search_block(
    queries: ImageSet, rows: Ints, database: ImageSet, database_rows: Ints, index: Any, threshold: float
) -> NearPairs:
    neighbour_count = min(NEIGHBOURS, len(database_rows))
    found: list[tuple[Ints, Ints, Ints, Floats]] = []
    crowded = np.zeros(len(rows), bool)
    for number, vectors in enumerate(queries.views(rows)):
        cosines, positions = index.search(np.ascontiguousarray(vectors), neighbour_count)
        near = (cosines >= queries.candidate_threshold) & (positions >= 0)
        crowded |= near.all(axis=1) & (neighbour_count < len(database_rows))
        query, rank = np.nonzero(near)
        first, second = rows[query], database_rows[positions[query, rank]]
        other = (first != second) if queries is database else np.ones(len(first), bool)
        cosine = cosines[query, rank][other]
        found.append((first[other], second[other], np.full(other.sum(), number), cosine))
    first, second, view, cosine = _best_view(*(np.concatenate(part) for part in zip(*found, strict=True)))
    similarity = np.minimum(queries.similarity(first, view, database, second, cosine), 1)  # rounding can exceed 1
    keep = similarity >= threshold
    return NearPairs(first[keep], second[keep], similarity[keep], rows[crowded])


def _best_view(first: Ints, second: Ints, view: Ints, cosine: Floats) -> tuple[Ints, Ints, Ints, Floats]:
    """Keeps each pair once, with the view of the highest cosine; the first view wins a tie."""
    order = np.lexsort((view, -cosine, second, first))
    first, second, view, cosine = first[order], second[order], view[order], cosine[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new], view[new], cosine[new]
