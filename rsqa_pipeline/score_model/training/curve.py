"""The curve of a training: loss and held-out accuracy over its steps, logged, drawn and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rsqa_pipeline import plots
from rsqa_pipeline.score_model.training.checkpoints import CurvePoint
from rsqa_pipeline.tracking.run_logger import RunLogger

VALUES = ("loss", "accuracy", "learning_rate")


class TrainingCurve:
    """Loss and held-out accuracy over steps, logged and kept in ``rows``."""

    def __init__(self, name: str, logger: RunLogger) -> None:
        self.name = name
        self.rows: list[CurvePoint] = []
        self._logger = logger

    def resume(self, rows: list[CurvePoint]) -> None:
        """Resumes from the rows of a killed run. They are logged again, since the logger's run is a new one."""
        for row in rows:
            self.add(int(row["step"] or 0), {key: row[key] for key in VALUES if row[key] is not None})

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds values (any of `VALUES`) at a step."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step, "loss": None, "accuracy": None, "learning_rate": None})
        self.rows[-1].update(values)
        known = {f"{self.name}.{key}": value for key, value in values.items() if value is not None}
        self._logger.log_metrics(known, step=step)

    @property
    def last_loss(self) -> float:
        """Most recent loss of the curve, a mean over the steps since the point before."""
        return next(float(row["loss"]) for row in reversed(self.rows) if row["loss"] is not None)

    def write(self, out: Path, loss: str) -> None:
        """Writes history.json and plots/training.png.

        Args:
            loss: name of the loss, for the plot.
        """
        (out / "history.json").write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        figure, (losses, accuracies) = plots.new_panels(2, 9.0, 3.4)
        for axes, key in ((losses, "loss"), (accuracies, "accuracy")):
            points: Sequence[tuple[float | None, float | None]] = [
                (row["step"], row[key]) for row in self.rows if row[key] is not None
            ]
            axes.plot(*zip(*points, strict=True), marker="o", color=plots.colour("score_model"))
            axes.set_xlabel("optimizer step")
        losses.set_title(f"{loss} loss, {self.name} phase")
        accuracies.set_title("held-out preference accuracy")
        accuracies.axhline(0.5, color=plots.colour("random"), linewidth=1, linestyle="--", label="chance")
        accuracies.legend()
        plots.save(figure, out / "plots" / "training.png")
