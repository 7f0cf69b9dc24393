"""What a stage can log while it runs, and a logger that logs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class RunLogger(Protocol):
    """One run of one stage. Implementations: `SilentLogger` here, `MlflowLogger` in `tracking.mlflow_logger`."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Settings of the run, with flat names."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers; with an optimizer step if they are points of a curve."""

    def log_model(self, name: str, folder: Path) -> None:
        """Registers ``folder`` (a `save_pretrained` layout) as the next version of the model ``name``."""


class SilentLogger:
    """Logs nothing; for tests and plain library use."""

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        pass

    def log_model(self, name: str, folder: Path) -> None:
        pass
