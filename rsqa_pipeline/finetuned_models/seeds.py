"""A fine-tuned asset holds one model per training seed; the first seed's is the one that later stages start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
