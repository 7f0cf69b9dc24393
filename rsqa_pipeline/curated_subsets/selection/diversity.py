"""Diverse selection by facility location: the samples that together represent all others best."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from rsqa_pipeline.errors import DataError

Floats = npt.NDArray[np.float32]

MAX_CANDIDATES = 50_000
"""Every candidate is compared with every other; more candidates take hours."""
_BLOCK_ROWS = 1024


def read_embeddings(file: str, ids: Sequence[str]) -> Floats:
    """(n, width) unit vectors of the samples ``ids``, in that order; only these are held in memory.

    Raises:
        DataError: the table does not exist or is unsuitable, or an id has no embedding.
    """
    if not Path(file).exists():
        raise DataError(f"diverse.embeddings: no file {file}")
    table = ds.dataset(file)
    name = next((name for name in ("sample_id", "key") if name in table.schema.names), None)
    if name is None or "embedding" not in table.schema.names:
        needed = "columns sample_id (or key) and embedding"
        raise DataError(f"{file}: needs {needed}, found {', '.join(table.schema.names)}")
    positions = {key: index for index, key in enumerate(ids)}
    vectors: dict[int, Floats] = {}
    for batch in table.to_batches(
        columns=[name, "embedding"], filter=pc.field(name).isin(pa.array(ids)), use_threads=False
    ):
        for key, vector in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            vectors[positions[key]] = np.asarray(vector, dtype=np.float32)
    missing = [key for key, index in positions.items() if index not in vectors]
    if missing:
        raise DataError(f"{file}: {len(missing)} of {len(ids)} candidate samples have no embedding, e.g. {missing[0]}")
    rows = np.stack([vectors[index] for index in range(len(ids))])
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def facility_location(vectors: Floats, count: int) -> list[int]:
    """Indices of ``count`` rows, in the order chosen, that maximise the sum over all rows of the similarity
    (1 + cosine) / 2 to the closest chosen row.

    Greedy, so within 1 - 1/e of the optimum. Lazy: a row's gain can only fall as others are chosen, so most gains are
    not computed again. Equal gains are ordered by index.

    Args:
        vectors: (n, width) unit vectors.

    Raises:
        DataError: there are more rows than `MAX_CANDIDATES`.
    """
    if len(vectors) > MAX_CANDIDATES:
        raise DataError(
            f"{len(vectors)} candidates for a diverse selection, at most {MAX_CANDIDATES} allowed; lower diverse.top"
        )
    covered = np.zeros(len(vectors))
    waiting = [(-gain, index) for index, gain in enumerate(_similarity_sums(vectors))]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)):
        _, index = heapq.heappop(waiting)
        similar = _similarity(vectors, vectors[index])
        gain = float(np.maximum(similar - covered, 0.0).sum())
        if waiting and (-gain, index) > waiting[0]:  # another row has a higher bound: check it first
            heapq.heappush(waiting, (-gain, index))
            continue
        chosen.append(index)
        covered = np.maximum(covered, similar)
    return chosen


def _similarity(vectors: Floats, vector: Floats) -> npt.NDArray[np.float64]:
    return (1.0 + (vectors @ vector).astype(np.float64)) / 2.0


def _similarity_sums(vectors: Floats) -> list[float]:
    """Upper bound of every row's first gain: the sum of its similarities with all rows, rounded up."""
    sums: list[float] = []
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS] @ vectors.T
        sums += ((1.0 + block.astype(np.float64)) / 2.0).sum(axis=1).tolist()
    return [bound * (1 + 1e-6) + 1e-6 for bound in sums]
