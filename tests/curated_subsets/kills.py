"""Kills scoring repeatedly at random moments and compares the result with that of an undisturbed run.

    python -m tests.curated_subsets.kills --kills 20 --engine local --workers 1 2 --rows 3000
    python -m tests.curated_subsets.kills --kills 20 --engine ray --workers 2 --workers-only --rows 3000

With ``--workers-only`` each kill hits a worker; without it, the run itself, and its workers are not killed. With
``--score OUT`` this script is the process that is killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
from rsqa_pipeline.curated_subsets.scoring.shards import quarantine_path
from rsqa_pipeline.errors import EngineError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import EngineName
from tests.curated_subsets.counting_scorer import CountingSpec, passes

ROWS = 600
SHARD_ROWS = 10
SECONDS_PER_TEXT = 0.005
TIMEOUT_SECONDS = 180.0


def write_data(folder: Path, rows: int = ROWS) -> SourceFile:
    """A LLaVA file with valid rows, missing and empty images, repeated ids and texts without a score."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(4):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    (folder / "empty.png").write_bytes(b"")
    content = []
    for n in range(rows):
        turns = [{"from": "human", "value": "<image>\nhow many?"}, {"from": "gpt", "value": f"text {n}"}]
        content.append({"id": f"row{n}", "image": f"{n % 4}.png", "conversations": turns})
    for n in range(5, rows, 50):
        content[n]["image"] = "missing.png"
        content[n + 1]["image"] = "empty.png"
        content[n + 2]["id"] = f"row{n - 3}"
        content[n + 3]["conversations"][1]["value"] = f"nothing {n}"  # type: ignore[index]
    file = folder / "data.json"
    file.write_text(json.dumps(content))
    return SourceFile(format="llava", path=str(file))


@dataclass
class KillReport:
    """Effects of the kills."""

    kills: int
    finished_at_kill: list[int]
    """Rows in finished shards."""
    scored_again: int
    """Forward passes of texts that were in a finished shard at an earlier kill."""
    passes: int
    needed: int
    """Texts to score: forward passes of an undisturbed run."""
    same_scores: bool
    same_quarantine: bool


def run_with_kills(
    folder: Path,
    kills: int,
    engine: EngineName,
    workers: Sequence[int],
    seed: int,
    workers_only: bool = False,
    rows: int = ROWS,
) -> KillReport:
    """Runs undisturbed (this process, one worker), then with kills until a run finishes.

    Args:
        workers: number of workers in the first run, the second, and so on, repeated.
    """
    source = write_data(folder, rows)
    undisturbed, out, log = folder / "calm.parquet", folder / "killed.parquet", folder / "killed.log"
    score_file(CountingSpec(folder / "calm.log"), source, undisturbed, SHARD_ROWS, Engine())
    needed = passes(folder / "calm.log")
    assert len({text for _, text in needed}) == len(needed)
    rng = random.Random(seed)
    report = KillReport(0, [], 0, 0, len(needed), False, False)
    finished: set[str] = set()
    counts, running = itertools.cycle(workers), None
    for _ in range(kills):
        if running is None or running.poll() is not None:
            running = _start(folder, out, engine, next(counts))
        before = len(passes(log))
        share = 2 * (len(needed) - len(finished)) // (kills - report.kills + 2)  # kills spread over the run
        _wait_for_moment(running, log, before + rng.randint(1, max(1, share)), rng, workers_only)
        if running.poll() is not None:
            break
        _kill(running, log, before, workers_only, engine)
        report.kills += 1
        report.scored_again += sum(text in finished for _, text in passes(log)[before:])
        finished = _finished_texts(out)
        report.finished_at_kill.append(len(finished))
    before = len(passes(log))
    while running is None or running.wait(TIMEOUT_SECONDS) != 0:
        running = _start(folder, out, engine, next(counts))
    report.scored_again += sum(text in finished for _, text in passes(log)[before:])
    report.passes = len(passes(log))
    assert {text for _, text in passes(log)} == {text for _, text in needed}
    report.same_scores = pq.read_table(out).equals(pq.read_table(undisturbed))
    report.same_quarantine = pq.read_table(quarantine_path(out)).equals(pq.read_table(quarantine_path(undisturbed)))
    return report


def _start(folder: Path, out: Path, engine: str, workers: int) -> subprocess.Popen[bytes]:
    args = [sys.executable, "-m", "tests.curated_subsets.kills", "--score", str(out)]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*args, "--engine", engine, "--workers", str(workers)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "errors.txt").open("ab"),
    )


def _wait_for_moment(
    running: subprocess.Popen[bytes], log: Path, target: int, rng: random.Random, workers_only: bool
) -> None:
    """Waits until ``target`` texts are scored plus a few milliseconds; one time in four, up to 3 s after the start."""
    if not workers_only and rng.random() < 0.25:
        time.sleep(rng.uniform(0, 3))
        return
    until = time.monotonic() + TIMEOUT_SECONDS
    while running.poll() is None and len(passes(log)) < target:
        assert time.monotonic() < until, f"no {target} passes; see {log.parent / 'errors.txt'}"
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.03))


def _kill(running: subprocess.Popen[bytes], log: Path, before: int, worker: bool, engine: EngineName) -> None:
    workers = {process for process, _ in passes(log)[before:]} - {running.pid}
    if worker:
        os.kill(passes(log)[-1][0], signal.SIGKILL)
        if engine == "local":
            running.wait(TIMEOUT_SECONDS)  # the run ends with an error; Ray starts another worker
        return
    running.send_signal(signal.SIGKILL)
    running.wait(TIMEOUT_SECONDS)
    psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], TIMEOUT_SECONDS)
    assert not [pid for pid in workers if psutil.pid_exists(pid)]  # workers do not outlive their run


def _finished_texts(out: Path) -> set[str]:
    """Texts of the rows in finished shards."""
    keys: set[str] = set()
    for file in out.with_name(f"{out.stem}.shards").glob("*.scores.parquet"):
        keys.update(pq.read_table(file).column("key").to_pylist())
    return {f"text {key.removeprefix('row')}" for key in keys}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="of the first run, the second, ...")
    parser.add_argument("--workers-only", action="store_true")
    parser.add_argument("--score", type=Path)
    args = parser.parse_args()
    if args.score:
        spec = CountingSpec(args.score.with_suffix(".log"), seconds=SECONDS_PER_TEXT)
        source = SourceFile(format="llava", path=str(args.score.parent / "data.json"))
        try:
            score_file(spec, source, args.score, SHARD_ROWS, Engine(args.engine, args.workers[0]))
        except EngineError as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options = (args.kills, args.engine, args.workers, args.seed, args.workers_only, args.rows)
        print(run_with_kills(Path(folder), *options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
