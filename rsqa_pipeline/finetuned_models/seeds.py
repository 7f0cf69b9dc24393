"""A fine-tuned asset holds one model per training seed; the first seed's is the one that later stages start from.

A finished seed is kept beside the outputs until all are finished, so that a killed run trains only the others. The
unfinished one resumes from its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rsqa_pipeline.finetuned_models.checkpoints import keyed_folder
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun, write_history
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tracking.run_logger import RunLogger


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
    train: Callable[[TrainingRun, Path], list[StepMetrics]],
) -> dict[int, list[StepMetrics]]:
    """Trains one model per seed into `seed_folders`; returns each seed's history.

    Args:
        name: of the asset. Its finished seeds are kept under a key of everything that they depend on; those of another
            key are deleted, never used.
        train: trains one seed and writes its model into the given folder.
    """
    seeds = settings.finetuned_models.seeds
    root = settings.state / "finetuned_models" / name
    parts = {
        "finetuned_models": settings.finetuned_models.model_dump(mode="json", exclude={"seeds"}),
        "compute": settings.compute.model_dump(mode="json"),
    }
    state = keyed_folder(root, inputs, parts, train.__module__.removeprefix("rsqa_pipeline."))
    histories: dict[int, list[StepMetrics]] = {}
    for seed in seeds:
        finished = state / f"seed_{seed}"
        if not (finished / "model").is_dir():  # nor where a kill came after its model was moved to the output
            shutil.rmtree(finished, ignore_errors=True)
            begun = state / f"unfinished_seed_{seed}"
            shutil.rmtree(begun / "model", ignore_errors=True)
            scratch = begun / "training"
            scratch.mkdir(parents=True, exist_ok=True)
            training_run = TrainingRun(seed, settings.compute, scratch, logger_of(logger, seeds, seed))
            write_history(train(training_run, begun / "model"), begun / "history.json")
            shutil.rmtree(scratch)
            begun.rename(finished)
        histories[seed] = json.loads((finished / "history.json").read_text(encoding="utf-8"))
    for seed, folder in seed_folders(out, seeds).items():
        shutil.move(state / f"seed_{seed}" / "model", folder)
    shutil.rmtree(root)
    return histories
