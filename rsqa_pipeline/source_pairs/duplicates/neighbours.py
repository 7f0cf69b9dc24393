"""Pairs of near images by approximate nearest-neighbour search, in blocks: never all pairs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Rows

NEIGHBOURS = 32
"""Looked at for each query."""
BLOCK = 4096
"""Images whose candidates are held at once: at most BLOCK x views x NEIGHBOURS of them."""
EXACT_BELOW = 10_000
"""Up to as many images are searched exhaustively; above, in the cells nearest to the query."""
CELLS_SEARCHED = 16
_TRAINING_ROWS_A_CELL = 39  # the least that faiss asks for


@dataclass(frozen=True)
class NearPairs:
    """Pairs found, each once for each side that found it."""

    first: Rows
    second: Rows
    similarity: Floats
    crowded: Rows
    """Rows with as many candidates as are looked at: they may have more."""


def near_pairs(queries: ImageSet, rows: Rows, database: ImageSet, database_rows: Rows, threshold: float) -> NearPairs:
    """Pairs (a row of ``queries``, a row of ``database``) whose similarity reaches ``threshold``; an image is no pair
    with itself where both sets are the same object.

    Args:
        rows, database_rows: the images to search with and among.
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
        cells = min(int(4 * count**0.5), count // _TRAINING_ROWS_A_CELL)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = CELLS_SEARCHED
        sample = np.random.default_rng(0).permutation(count)[: cells * _TRAINING_ROWS_A_CELL]
        index.train(vectors[np.sort(sample)])
    for start in range(0, count, 1 << 16):  # add() copies what it is given
        index.add(vectors[start : start + (1 << 16)])
    return index


def _search_block(
    queries: ImageSet, rows: Rows, database: ImageSet, database_rows: Rows, index: Any, threshold: float
) -> NearPairs:
    looked_at = min(NEIGHBOURS, len(database_rows))
    found: list[tuple[Rows, Rows, Rows, Floats]] = []
    crowded = np.zeros(len(rows), bool)
    for number, vectors in enumerate(queries.views(rows)):
        cosines, places = index.search(np.ascontiguousarray(vectors), looked_at)
        near = (cosines >= queries.candidate_threshold) & (places >= 0)
        crowded |= near.all(axis=1) & (looked_at < len(database_rows))
        query, rank = np.nonzero(near)
        first, second = rows[query], database_rows[places[query, rank]]
        other = (first != second) if queries is database else np.ones(len(first), bool)
        cosine = cosines[query, rank][other]
        found.append((first[other], second[other], np.full(other.sum(), number), cosine))
    first, second, view, cosine = _best_view(*(np.concatenate(part) for part in zip(*found, strict=True)))
    similarity = np.minimum(queries.similarity(first, view, database, second, cosine), 1)  # rounding goes beyond
    keep = similarity >= threshold
    return NearPairs(first[keep], second[keep], similarity[keep], rows[crowded])


def _best_view(first: Rows, second: Rows, view: Rows, cosine: Floats) -> tuple[Rows, Rows, Rows, Floats]:
    """Each pair once, with the view of the greatest cosine, the first of equal ones."""
    order = np.lexsort((view, -cosine, second, first))
    first, second, view, cosine = first[order], second[order], view[order], cosine[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new], view[new], cosine[new]
