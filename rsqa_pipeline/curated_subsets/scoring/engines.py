"""Engines that score shards: this process or several on this machine (``local``), or Ray Data actors (``ray``).

All engines give the same tables: one worker scores a whole shard, and the shard's name contains its position. (Scores
of real models may differ in the last bit between devices and numbers of threads.)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from rsqa_pipeline.curated_subsets.scoring.worker import ScoringJob, Shard, ShardWorker
from rsqa_pipeline.errors import EngineError
from rsqa_pipeline.profile.curated_subsets import EngineName


@dataclass(frozen=True)
class Engine:
    """Where shards are scored."""

    name: EngineName = "local"
    workers: int = 1
    """Processes or Ray actors. Each loads the model once and uses one GPU if there are any."""

    def run(self, job: ScoringJob, shards: Iterator[Shard]) -> Iterator[int]:
        """Scores the shards and yields the number of rows of each finished one, in any order.

        Raises:
            EngineError: a local worker process died (finished shards are kept), or Ray is requested but not installed.
        """
        if self.name == "ray":
            return _run_with_ray(job, shards, self.workers)
        if self.workers == 1:
            return map(ShardWorker(job), shards)
        return _run_in_processes(job, shards, self.workers)


def _run_in_processes(job: ScoringJob, shards: Iterable[Shard], workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")  # a fork would copy CUDA and OpenMP state, which is unusable
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    start = (job, context.Value("i", 0), max(1, threads // workers))
    with ProcessPoolExecutor(workers, context, _start_process, start) as pool:
        waiting: set[Future[int]] = set()
        try:
            for shard in shards:
                waiting.add(pool.submit(_score_in_process, shard))
                if len(waiting) >= 2 * workers:  # limits how much is read ahead
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in waiting)
        except BrokenProcessPool as error:
            raise EngineError(
                f"one of {workers} workers died while scoring (killed, or out of memory?). Finished shards are kept in "
                f"{job.folder}: run the same command again, with fewer workers or smaller batches if memory was short"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_job: ScoringJob
_number: int
_worker: ShardWorker | None = None


def _start_process(job: ScoringJob, started: Any, threads: int) -> None:
    global _job, _number
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is imported later, with the model
    with started.get_lock():
        _job, _number = job, started.value
        started.value += 1
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this worker when its parent dies: a killed parent cannot stop its workers, which would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _score_in_process(shard: Shard) -> int:
    global _worker
    if _worker is None:  # here, not in `_start_process`: errors of a task reach the parent unchanged
        _worker = ShardWorker(_job, _number)
    return _worker(shard)


class _RayWorker:
    """A Ray Data actor that holds a scorer. One batch is one row: the path of a shard file."""

    def __init__(self, job: ScoringJob, folder: str) -> None:
        os.chdir(folder)  # image references and the model path may be relative to it
        self._score = ShardWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"rows": [self._score(Shard.read(Path(path))) for path in batch["path"]]}


def _run_with_ray(job: ScoringJob, shards: Iterable[Shard], workers: int) -> Iterator[int]:
    """Passes shards to the actors as files: all machines must see the job's folder, the images and the current folder.

    Ray restarts a killed actor and assigns its shard again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise EngineError("engine ray needs Ray Data: pip install 'rsqa-pipeline[cluster]'") from error
    files = job.folder / "waiting"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    paths = []
    for shard in shards:
        paths.append(str((files / f"{shard.name}.json").resolve()))
        shard.save(Path(paths[-1]))
    if not paths:
        return
    own = not ray.is_initialized()
    if own:  # the cluster at RAY_ADDRESS, or a new one on this machine
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        gpus = job.scorer.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths)).map_batches(
            _RayWorker,
            fn_constructor_args=(job, str(Path.cwd())),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(paths))),
            num_gpus=1 if gpus else 0,
        )
        for batch in rows.iter_batches(batch_size=1):
            yield int(batch["rows"][0])
    finally:
        if own:
            ray.shutdown()
