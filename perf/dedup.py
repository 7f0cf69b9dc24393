"""Near-duplicate search over synthetic embeddings: time, peak memory and recall, compared with an exhaustive search.

    OMP_NUM_THREADS=1 python perf/dedup.py --images 100000

The embeddings are clustered like those of real corpora: unit vectors around 1,000 centres, with a cosine of about 0.3
within a cluster. A tenth of the images are copies of others, with cosines of 0.75 to 0.98. The exhaustive search
compares a sample of the images with all others; its time is scaled up.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator

import faiss
import numpy as np

from rsqa_pipeline.source_pairs.duplicates.components import find_components
from rsqa_pipeline.source_pairs.duplicates.image_set import Floats, ImageSet, Ints

WIDTH = 128
CENTRES = 1000
THRESHOLD = 0.65
NAIVE_ROWS = 2000


class Embeddings:
    """Unit vectors as an image set with one view; real image sets have 8 views, each searched like this one."""

    candidate_threshold = THRESHOLD

    def __init__(self, vectors: Floats) -> None:
        self.vectors = vectors
        self.pixel_counts = np.ones(len(vectors), np.int64)

    def views(self, rows: Ints) -> Iterator[Floats]:
        yield self.vectors[rows]

    def similarity(self, rows: Ints, view: Ints, others: ImageSet, other_rows: Ints, cosine: Floats) -> Floats:
        return cosine


def embeddings(count: int) -> tuple[Floats, Ints]:
    """Unit vectors (count, 128), the last tenth of them copies, and the rows that were copied, (count // 10,)."""
    rng = np.random.default_rng(0)
    copies = count // 10
    centres = unit(rng.standard_normal((CENTRES, WIDTH), np.float32))
    vectors = np.empty((count, WIDTH), np.float32)
    originals = count - copies
    for start in range(0, originals, 1 << 16):
        stop = min(start + (1 << 16), originals)
        around = unit(rng.standard_normal((stop - start, WIDTH), np.float32))
        vectors[start:stop] = unit(0.65 * centres[rng.integers(0, CENTRES, stop - start)] + around)
    copied = rng.choice(originals, copies, replace=False)
    cosine = rng.uniform(0.75, 0.98, (copies, 1)).astype(np.float32)
    aside = rng.standard_normal((copies, WIDTH), np.float32)
    aside -= (aside * vectors[copied]).sum(1, keepdims=True) * vectors[copied]
    vectors[originals:] = cosine * vectors[copied] + np.sqrt(1 - cosine**2) * unit(aside)
    return vectors, copied


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def naive_seconds(vectors: Floats) -> float:
    """CPU seconds for comparing every pair, extrapolated from ``NAIVE_ROWS`` images compared with all."""
    started = time.process_time()
    for start in range(0, NAIVE_ROWS, 200):
        np.nonzero(vectors[start : start + 200] @ vectors.T >= THRESHOLD)
    return (time.process_time() - started) * len(vectors) / NAIVE_ROWS


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    count = parser.parse_args().images
    vectors, copied = embeddings(count)
    before = peak_mib()
    images = Embeddings(vectors)
    started, cpu = time.perf_counter(), time.process_time()
    groups = find_components(images, np.arange(count), range(count), THRESHOLD)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = peak_mib()
    recall = float(np.mean(groups.keeper[count - len(copied) :] == groups.keeper[copied]))
    removed = int((groups.keeper != np.arange(count)).sum())
    print(f"images {count}, width {WIDTH}, copies {len(copied)}")
    print(f"threads {faiss.omp_get_max_threads()} of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"search and components {seconds:.1f} s, {cpu:.1f} s of CPU")
    print(f"peak memory {peak:.0f} MiB, of which {before:.0f} MiB before the search")
    print(f"recall {recall:.4f}, removed {removed}")
    print(f"every pair would take {naive_seconds(vectors):.0f} s of CPU")


if __name__ == "__main__":
    main()
