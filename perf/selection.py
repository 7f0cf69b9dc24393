"""Selection from a score file of many rows: time and peak memory, compared with sorting in memory.

    OMP_NUM_THREADS=1 python perf/selection.py --rows 100000000

Writes a file of 8-character ids (``key``) and float32 scores to a temporary folder, in groups of a million rows, then
selects from it in a separate process, so that the peak is the selection's. The naive method loads ids and scores as a
table and sorts it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.selection.apply_rule_streaming import apply_rule_streaming
from rsqa_pipeline.curated_subsets.selection.score_file import curate_scores
from rsqa_pipeline.curated_subsets.selection.score_reader import ScoreTable
from rsqa_pipeline.profile.curated_subsets import SubsetRule

Method = Callable[[Path, dict[str, object]], int]
ROW_GROUP = 1_000_000
DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
SCHEMA = pa.schema([("key", pa.string()), ("score", pa.float32())])
SHARE = {"caption_fraction": 0.3, "instruction_fraction": 0.3}
RULES: dict[str, dict[str, object]] = {
    "best 30%": {"selector": "score_model", **SHARE},
    "30% at random": {"selector": "random", **SHARE},
}


def write_scores(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, SCHEMA) as file:
        for start in range(0, rows, ROW_GROUP):
            numbers = np.arange(start, min(start + ROW_GROUP, rows), dtype=np.uint32)
            shifts = np.arange(28, -4, -4, dtype=np.uint32)
            text = DIGITS[(numbers[:, None] >> shifts) & 15]
            offsets = np.arange(0, 8 * len(numbers) + 8, 8, dtype=np.int32)
            keys = pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
            scores = pa.array(rng.standard_normal(len(numbers), np.float32))
            file.write_table(pa.table([keys, scores], schema=SCHEMA))


def select(path: Path, rule: dict[str, object]) -> int:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        kept = apply_rule_streaming(ScoreTable(path), SubsetRule.model_validate(rule), 0, Path(scratch)).kept
    return int(kept.sum())


def explain(path: Path, rule: dict[str, object]) -> int:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return curate_scores(path, SubsetRule.model_validate(rule), 0, Path(folder)).kept


def naive(path: Path, rule: dict[str, object]) -> int:
    table = pq.read_table(path).to_pandas()
    return len(table.sort_values(["score", "key"], ascending=[False, True]).head(round(0.3 * len(table))))


def measure(name: str, method: Method, path: Path, rule: dict[str, object]) -> None:
    """Runs ``method`` in a new process and prints its time and memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        kept, seconds, cpu, peak = process.submit(_run, method, path, rule).result()
    print(f"{name}: {kept:,} kept, {seconds:.0f} s, {cpu:.0f} s of CPU, peak {peak:.0f} MiB", flush=True)


def _run(method: Method, path: Path, rule: dict[str, object]) -> tuple[int, float, float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    kept = method(path, rule)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return kept, time.perf_counter() - started, time.process_time() - cpu, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--naive", action="store_true", help="Also sort in memory: about 100 bytes per row.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        write_scores(path, arguments.rows)
        size = path.stat().st_size / 2**20
        print(
            f"{arguments.rows:,} rows, {size:.0f} MiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        for name, rule in RULES.items():
            measure(name, select, path, rule)
        measure("best 30%, ids, ranks and reasons written", explain, path, RULES["best 30%"])
        if arguments.naive:
            measure("best 30%, sorted in memory", naive, path, RULES["best 30%"])


if __name__ == "__main__":
    main()
