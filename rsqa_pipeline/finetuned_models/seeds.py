"""A fine-tuned asset holds one model per training seed; the first seed's is the one that later stages start from.

A finished seed is kept beside the outputs until all are finished, so that a killed run trains only the others.
Unfinished ones resume from their last checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.finetuned_models.checkpoints import keyed_folder
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun, write_history
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.score_model.training.launch import Job, run_in_processes
from rsqa_pipeline.tracking.run_logger import RunLogger

SeedTraining = Callable[[TrainingRun, Path], list[StepMetrics]]
"""Trains one seed, writes its model into a folder and returns its history."""


def seed_folders(folder: Path, seeds: Sequence[int]) -> dict[int, Path]:
    """Seed -> folder of its model: ``model`` for the first, ``model_seed_<seed>`` for the others."""
    return {seed: folder / ("model" if index == 0 else f"model_seed_{seed}") for index, seed in enumerate(seeds)}


class SeedLogger:
    """Logs the metrics of one of several seeds under ``seed_<seed>/``, so that curves do not overwrite each other."""

    def __init__(self, logger: RunLogger, seed: int) -> None:
        self._logger, self._prefix = logger, f"seed_{seed}/"

    def log_params(self, params: Mapping[str, object]) -> None:
        self._logger.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._logger.log_metrics({self._prefix + name: value for name, value in metrics.items()}, step=step)

    def log_model(self, name: str, folder: Path) -> None:
        self._logger.log_model(name, folder)


def logger_of(logger: RunLogger, seeds: Sequence[int], seed: int) -> RunLogger:
    """Where a seed's training logs: to ``logger`` itself if there is one seed only."""
    return SeedLogger(logger, seed) if len(seeds) > 1 else logger


def train_seeds(
    name: str,
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    train: SeedTraining,
) -> dict[int, list[StepMetrics]]:
    """Trains one model per seed into `seed_folders`; returns each seed's history.

    Args:
        name: of the asset. Its finished seeds are kept under a key of everything that they depend on; those of another
            key are deleted, never used.
        train: trains one seed and writes its model into the given folder. With ``parallel_seeds`` it is called in
            several threads at once, and starts a process, see `train_in_process`.
    """
    seeds = settings.finetuned_models.seeds
    root = settings.state / "finetuned_models" / name
    parts = {
        "finetuned_models": settings.finetuned_models.model_dump(mode="json", exclude={"seeds", "parallel_seeds"}),
        "compute": settings.compute.model_dump(mode="json"),
    }
    state = keyed_folder(root, inputs, parts, train.__module__.removeprefix("rsqa_pipeline."))
    at_once = settings.finetuned_models.parallel_seeds
    unfinished = [seed for seed in seeds if not _is_finished(state, seed)]
    loggers = {seed: logger_of(logger, seeds, seed) for seed in unfinished}
    if at_once == 1:  # in this thread, which an interruption of the run reaches
        for seed in unfinished:
            _train_seed(state, seed, settings.compute, loggers[seed], train, Event())
    else:
        _train_at_once(state, unfinished, settings.compute, loggers, train, at_once)
    histories = {
        seed: json.loads((state / f"seed_{seed}" / "history.json").read_text(encoding="utf-8")) for seed in seeds
    }
    for seed, folder in seed_folders(out, seeds).items():
        shutil.move(state / f"seed_{seed}" / "model", folder)
    shutil.rmtree(root)
    return histories


def train_in_process(
    module: str,
    training_run: TrainingRun,
    folder: Path,
    inputs: Mapping[str, Path],
    settings: Profile,
    launch: Sequence[str],
    details: Mapping[str, Any],
) -> list[StepMetrics]:
    """Trains one seed in a process, or in the several that a launcher starts; returns its history.

    Args:
        module: calls `run_worker` as its main program.
        launch: ``compute.launch``, or `own_process`.
        details: JSON, added to the job.
    """
    job = {
        "inputs": {name: str(path) for name, path in inputs.items()},
        "seed": training_run.seed,
        "compute": training_run.compute.model_dump(mode="json"),
        "scratch": str(training_run.scratch),
        "folder": str(folder),
        **details,
    }
    at_once = settings.finetuned_models.parallel_seeds
    threads = max(1, len(os.sched_getaffinity(0)) // at_once) if at_once > 1 else None
    history: list[StepMetrics] = run_in_processes(
        module, job, launch, training_run.logger, threads, training_run.stopped
    )
    return history


def own_process(settings: Profile) -> list[str]:
    """The launcher of a single process, where several seeds are trained at once; else empty."""
    return [sys.executable] if settings.finetuned_models.parallel_seeds > 1 else []


def training_run_of(job: Job, logger: RunLogger) -> TrainingRun:
    """The training that `train_in_process` started, in its own process."""
    return TrainingRun(job["seed"], Compute(**job["compute"]), Path(job["scratch"]), logger)


def _is_finished(state: Path, seed: int) -> bool:
    """Not where a kill came after the seed's model was moved to the output."""
    return (state / f"seed_{seed}" / "model").is_dir()


def _train_at_once(
    state: Path,
    seeds: Sequence[int],
    compute: Compute,
    loggers: Mapping[int, RunLogger],
    train: SeedTraining,
    count: int,
) -> None:
    """Trains ``count`` seeds at a time. After an error the seeds that have begun go on to their end, and no other
    begins; an interruption stops all."""
    stopped = Event()
    with ThreadPoolExecutor(count) as pool:
        runs = [pool.submit(_train_seed, state, seed, compute, loggers[seed], train, stopped) for seed in seeds]
        try:
            for run in runs:
                run.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, RsqaError):
                stopped.set()
            raise


def _train_seed(
    state: Path, seed: int, compute: Compute, logger: RunLogger, train: SeedTraining, stopped: Event
) -> None:
    shutil.rmtree(state / f"seed_{seed}", ignore_errors=True)
    begun = state / f"unfinished_seed_{seed}"
    shutil.rmtree(begun / "model", ignore_errors=True)
    scratch = begun / "training"
    scratch.mkdir(parents=True, exist_ok=True)
    training_run = TrainingRun(seed, compute, scratch, logger, stopped)
    write_history(train(training_run, begun / "model"), begun / "history.json")
    shutil.rmtree(scratch)
    begun.rename(state / f"seed_{seed}")
