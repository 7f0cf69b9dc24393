"""The state that a killed training resumes from: weights and optimizer as safetensors, the step, the curve so far.

It has its own folder beside the outputs, named by a key of everything that the training depends on. A state with
another key is deleted, never resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.versions import training_key

CurvePoint = dict[str, float | None]
"""``{"step": 40, "loss": 0.31, "accuracy": None, "learning_rate": 0.0004}``; None where not measured."""


@dataclass
class Progress:
    """Progress of a training, besides weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the curve's last point."""
    history: list[CurvePoint] = field(default_factory=list)
    best_step: int | None = None
    """Step of the best held-out accuracy so far; None where none was measured."""
    best_accuracy: float = -1.0


class TrainingState:
    """States of one training; the newest one counts. All methods are for rank 0 only."""

    def __init__(self, folder: Path, key: str) -> None:
        """
        Args:
            folder: of this training and of earlier ones with other keys, which are deleted.
            key: see `state_key`.
        """
        self._root = folder
        self._folder = folder / key
        for other in folder.iterdir() if folder.is_dir() else ():
            if other != self._folder:
                shutil.rmtree(other)

    def latest(self) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]] | None:
        """Progress, weights and optimizer state of the newest state; None before the first."""
        states = sorted(self._folder.glob("step-*"))
        if not states:
            return None
        progress = json.loads((states[-1] / "progress.json").read_text(encoding="utf-8"))
        weights, optimizer = (load_file(states[-1] / f"{name}.safetensors") for name in ("weights", "optimizer"))
        return Progress(**progress), weights, optimizer

    def save(self, progress: Progress, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Writes a complete state, then deletes the ones that it replaces."""
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = self._folder / "writing"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        save_file(weights, scratch / "weights.safetensors")
        save_file(optimizer, scratch / "optimizer.safetensors")
        (scratch / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        state = self._folder / f"step-{progress.step:09d}"
        scratch.rename(state)
        kept = {state, self._best_file(progress.best_step or 0)}
        for old in self._folder.iterdir():
            if old not in kept:
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keeps the weights of the best step so far."""
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = self._folder / "writing.safetensors"
        save_file(weights, scratch)
        scratch.rename(self._best_file(step))

    def best(self, step: int) -> dict[str, Tensor]:
        """The weights that `save_best` kept for that step."""
        return load_file(self._best_file(step))

    def clear(self) -> None:
        """Deletes everything; called when the training's output is written."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _best_file(self, step: int) -> Path:
        return self._folder / f"best-{step:09d}.safetensors"


def state_key(inputs: Mapping[str, Path], settings: Profile) -> str:
    """Key of everything that the training's result depends on."""
    parts = {
        "score_model": settings.score_model.model_dump(mode="json"),
        "compute": settings.compute.model_dump(mode="json"),
        "seed": settings.seed,
    }
    return training_key(inputs, parts, "score_model.training.train")
