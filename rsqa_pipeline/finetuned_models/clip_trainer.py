"""The loop of contrastive training: AdamW, warm-up and cosine schedule, in one process or several, resumable."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from rsqa_pipeline.finetuned_models.captioned_images import CaptionedImages
from rsqa_pipeline.finetuned_models.checkpoints import CheckpointClock, Checkpoints
from rsqa_pipeline.finetuned_models.contrastive import ContrastiveStep
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun, not_finite
from rsqa_pipeline.profile import ClipStep
from rsqa_pipeline.score_model.training.distributed import ProcessGroup

PHASE = "captions"
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0
"""Norm that gradients are clipped to."""
STATE_FILE = "training.pt"


class ClipTrainer:
    """Trains the parameters of a CLIP or a SigLIP that require a gradient, in place.

    All processes hold the same weights and make the same step. Rank 0 logs and writes checkpoints.
    """

    def __init__(
        self, model: Any, data: CaptionedImages, step: ClipStep, training_run: TrainingRun, group: ProcessGroup
    ) -> None:
        self._model = model
        self._data = data
        self._step = step
        self._run = training_run
        self._group = group
        self._contrast = ContrastiveStep(model, group, step.chunk_size, training_run.compute.dtype == "bfloat16")
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(model, step.weight_decay), lr=step.learning_rate, betas=BETAS
        )
        self._steps = step.total_steps(math.ceil(len(data) / step.batch_size))
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, step.warmup_steps, self._steps)
        self._checkpoints = Checkpoints(training_run.scratch / PHASE) if group.is_rank_zero else None
        self._history: list[StepMetrics] = []

    def train(self) -> list[StepMetrics]:
        """Trains from the newest checkpoint, or from the beginning, to the last step; returns one row per step.

        Raises:
            ModelError: a loss or a gradient is not finite.
        """
        self._resume()
        done = len(self._history)
        clock = CheckpointClock(resumed=done > 0)
        steps = itertools.islice(self._data.steps(self._step, self._run.seed), done, self._steps)
        self._model.train()
        quiet = not self._group.is_rank_zero
        for batches in tqdm(steps, desc="clip", unit="step", initial=done, total=self._steps, disable=quiet):
            self._history.append(self._optimize(batches))
            self._log(self._history[-1])
            if self._checkpoints is not None and clock.is_due(len(self._history), self._steps):
                self._save(self._checkpoints)
                clock.written()
        return self._history

    def _optimize(self, batches: list[list[int]]) -> StepMetrics:
        """One optimizer step; loss and accuracy are those of its last batch."""
        step = len(self._history) + 1
        rate = self._schedule.get_last_lr()[0]
        sample_ids: list[str] = []
        for number, rows in enumerate(batches):
            sample_ids += [self._data.sample_ids[row] for row in rows]
            loss, accuracy = self._contrast.backward(
                self._data.batch(rows), self._step.gradient_accumulation, [self._run.seed, step, number]
            )
            if not torch.isfinite(loss):
                raise not_finite("loss", PHASE, step, sample_ids)
        self._contrast.average_gradients()
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRADIENT_NORM)):
            raise not_finite("gradient", PHASE, step, sample_ids)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        self._contrast.limit_temperature()
        numbers = {"loss": loss.item(), "accuracy": accuracy.item(), "learning_rate": rate}
        return {"phase": PHASE, "step": step, **numbers}

    def _log(self, row: StepMetrics) -> None:
        if self._group.is_rank_zero:
            numbers = {f"{PHASE}_{name}": row[name] for name in ("loss", "accuracy", "learning_rate")}
            self._run.logger.log_metrics(numbers, step=row["step"])

    def _save(self, checkpoints: Checkpoints) -> None:
        step = len(self._history)
        folder = checkpoints.writing / f"checkpoint-{step}"
        state = {
            "weights": {name: p.detach() for name, p in self._model.named_parameters() if p.requires_grad},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "history": self._history,
        }
        try:
            folder.mkdir(parents=True)
            torch.save(state, folder / STATE_FILE)
        except BaseException:
            checkpoints.discard_unfinished()  # also so that a full disk has room for the next attempt
            raise
        checkpoints.keep(folder, step)

    @torch.no_grad()
    def _resume(self) -> None:
        """Restores the newest checkpoint. Its steps are logged again, since the logger's run is a new one."""
        newest = self._group.broadcast(self._checkpoints.newest() if self._checkpoints is not None else None)
        if newest is None:
            return
        state = torch.load(f"{newest}/{STATE_FILE}", map_location=self._group.device, weights_only=True)
        parameters = dict(self._model.named_parameters())
        for name, weight in state["weights"].items():
            parameters[name].copy_(weight)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._history = state["history"]
        for row in self._history:
            self._log(row)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only, not for gains, biases and the temperature."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
