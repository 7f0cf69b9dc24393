"""Tracing in a large corpus: the rows behind a model, and what one sample touched.

    OMP_NUM_THREADS=1 python perf/trace.py --rows 1000000

Writes the tables of a corpus of captions to a temporary folder (samples, truth, two score tables and a subset of 30 %),
then times the two directions of `rsqa trace` in this process: without the start of Python, and without hashing the
folders, which `rsqa trace` does once for every folder that it names.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rsqa_pipeline.lineage.forward import forward
from rsqa_pipeline.lineage.rows import training_samples, unresolved
from rsqa_pipeline.lineage.trace import TraceNode
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version

SUBSET = "subset_score_model_p30s60"
SCORES = ("pair_scores", "clip_scores")


def write_corpus(profile: Profile, rows: int, captions: Path) -> None:
    """Samples with ids of 64 hexadecimal digits, as the pipeline writes them, five to an image."""
    rng = np.random.default_rng(0)
    ids = [f"{number:064x}" for number in rng.permutation(rows)]
    images = [f"{number // 5:064x}" for number in range(rows)]
    texts = [f"caption {number} of an image with two ships and a harbour" for number in range(rows)]
    scores = rng.standard_normal(rows)
    constant = {"source": "writer", "split": "corpus", "task": "caption", "scene_class": "harbour", "true_quality": 4.0}
    columns = {
        "sample_id": ids,
        "image_id": images,
        "image": [f"images.tar#{512 * (number // 5)}+400" for number in range(rows)],
        "messages": [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in texts],
        **{name: [value] * rows for name, value in constant.items()},
    }
    table = pa.table({name: columns.get(name, [None] * rows) for name in IMAGE_TEXT_SAMPLE.names}, IMAGE_TEXT_SAMPLE)
    folder = assets_of(profile)["image_text_pairs"].folder(profile)
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "samples.parquet", row_group_size=100_000)
    scenes = pa.array(np.arange(rows) // 5)
    truth = {"sample_id": ids, "scene": scenes, "original_text": pa.nulls(rows, pa.string())}
    pq.write_table(pa.table(truth), folder / "truth.parquet")
    pa.csv.write_csv(pa.table({"scene": scenes, "caption": texts}), captions)
    for name in SCORES:
        scored = {"sample_id": ids, "score": scores, "model_version": ["v" * 64] * rows}
        out = assets_of(profile)[name].folder(profile)
        out.mkdir(parents=True)
        pq.write_table(pa.table(scored), out / "scores.parquet", row_group_size=100_000)
    best = np.argsort(-scores)[: rows * 3 // 10]
    kept = assets_of(profile)[SUBSET].folder(profile)
    kept.mkdir(parents=True)
    pq.write_table(pa.table({"sample_id": [ids[number] for number in best]}), kept / "ids.parquet")


def root_of() -> TraceNode:
    """A model that was trained on the subset's captions, all of it on disk as recorded."""

    def node(name: str, *inputs: TraceNode) -> TraceNode:
        return TraceNode(name, "v", "matches", {"kind": "asset"}, list(inputs))

    pairs = node("image_text_pairs")
    return node("clip_model", node(SUBSET, pairs, *(node(name, pairs) for name in SCORES)), pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    profile = load_profile("demo")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        captions = Path("captions.csv")
        source = profile.source_pairs.captions.model_copy(update={"path": str(captions)})
        sources = profile.source_pairs.model_copy(update={"captions": source})
        profile = profile.model_copy(update={"source_pairs": sources})
        write_corpus(profile, rows, captions)
        target = f"{rows // 2:064x}"
        for name, action in (
            ("hashing the folder of samples", lambda: folder_version(profile.data / "source_pairs/image_text_pairs")),
            ("what one sample touched", lambda: forward(profile, target)),
            ("the rows behind a model", lambda: training_samples(profile, root_of())),
        ):
            wall, cpu = time.perf_counter(), time.process_time()
            found = action()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU; peak of the process {peak:,} MiB", flush=True)
            if name == "what one sample touched":
                assert isinstance(found, dict) and found["samples"] == {"image_text_pairs": [target]}
        print(f"{len(found):,} rows, {unresolved(found)} with a missing link")
        os.chdir("/")


if __name__ == "__main__":
    main()
