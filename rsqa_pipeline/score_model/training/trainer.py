"""The training loop of a phase: AdamW, warm-up and cosine, over one process or several, from the last state on.

AdamW with betas (0.9, 0.95) and a cosine schedule as in the paper. A step's rankings, order and rate follow from the
settings and the step's number alone, so weights, optimizer state and that number are the whole state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.score_model.training import distributed as spreading
from rsqa_pipeline.score_model.training.checkpoints import Progress, TrainingState
from rsqa_pipeline.score_model.training.curve import TrainingCurve
from rsqa_pipeline.score_model.training.distributed import Processes
from rsqa_pipeline.score_model.training.losses import ranking_loss
from rsqa_pipeline.score_model.training.pair_batches import PairData, Pass

BETAS = (0.9, 0.95)
LONGEST_GRADIENT = 1.0
"""Norm that gradients are cut to."""
LOSS_POINTS = 20
ACCURACY_POINTS = 4


@dataclass(frozen=True)
class Plan:
    """How to train, besides on what."""

    phase: ScoreModelPhase
    seed: int
    bfloat16: bool
    """Matrix products in bfloat16; weights, gradients and the head stay float32."""
    state_steps: int


class Optimization:
    """Trains the parameters of a model that require a gradient, in place."""

    def __init__(
        self,
        model: nn.Module,
        data: PairData,
        plan: Plan,
        processes: Processes,
        state: TrainingState | None,
        curve: TrainingCurve,
        measure: Callable[[], float | None],
    ) -> None:
        """
        Args:
            model: as `processes.spread` gave it.
            state: to go on from and to save to; None in all processes but the first.
            curve: what the first process tells.
            measure: held-out accuracy, 0..1, of the model as it stands; called in every process at the same steps.
        """
        self._model = model
        self._data = data
        self._plan = plan
        self._processes = processes
        self._state = state
        self._curve = curve
        self._measure = measure
        self._optimizer = _adamw(model, plan.phase)
        self._progress = Progress()

    def run(self) -> None:
        """Trains from the newest state, or from the beginning, to the last step.

        Raises:
            ModelError: the loss is no number any more.
        """
        self._resume()
        steps = self._data.steps
        self._model.train()
        bar = tqdm(
            total=steps,
            initial=self._progress.step,
            desc=f"{self._curve.name} phase",
            unit="step",
            disable=not self._processes.first,
        )
        with bar:
            while self._progress.step < steps:
                loss, rate = self._step(self._progress.step)
                self._progress.step += 1
                self._after_step(loss, rate, steps)
                bar.update(1)
                bar.set_postfix(loss=f"{loss:.3g}")
        self._keep_best()

    def _step(self, step: int) -> tuple[float, float]:
        """One optimizer step. Its loss, the mean over all processes' rankings, and its learning rate."""
        torch.manual_seed(self._plan.seed + step)  # for backbones with dropout
        rate = self._plan.phase.learning_rate * schedule(step, self._data.steps, self._plan.phase.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        passes = self._data.passes(step, self._processes.rank, self._processes.count)
        total = torch.zeros((), device=self._processes.device)
        for number, part in enumerate(passes, start=1):
            with self._quiet() if number < len(passes) else nullcontext():
                total += self._learn(part)
        if self._processes.count > 1:
            dist.all_reduce(total)
        if not torch.isfinite(total):
            raise ModelError(
                f"{self._curve.name} phase: loss is {total.item()} at step {step + 1}; lower its learning rate"
            )
        trained = [p for p in self._model.parameters() if p.grad is not None]
        nn.utils.clip_grad_norm_(trained, LONGEST_GRADIENT)
        self._optimizer.step()
        return total.item(), rate

    def _learn(self, part: Pass) -> Tensor:
        """Adds a pass's gradients; its weighted loss."""
        tensors = {
            name: tensor.to(self._processes.device) for name, tensor in self._data.collate(part.rankings).items()
        }
        ranked, counts, gaps = (tensors.pop(name) for name in ("ranked", "counts", "mark_gaps"))
        with torch.autocast(self._processes.device.type, torch.bfloat16, enabled=self._plan.bfloat16):
            scores = self._model(**tensors)
        loss = part.weight * ranking_loss(scores, ranked, counts, self._plan.phase.margin * gaps)
        # gradients are averaged over the processes; their sum is what one process would have. A text in no ranking
        # (`PairData`) has its part, without weight
        (loss * self._processes.count + 0.0 * scores.sum()).backward()
        return loss.detach()

    def _quiet(self) -> AbstractContextManager[None]:
        """Where gradients are only added up, not yet exchanged."""
        return self._model.no_sync() if isinstance(self._model, DistributedDataParallel) else nullcontext()

    def _after_step(self, loss: float, rate: float, steps: int) -> None:
        done = self._progress.step
        self._progress.losses.append(loss)
        if done % max(1, steps // LOSS_POINTS) == 0:
            mean = sum(self._progress.losses) / len(self._progress.losses)
            self._curve.add(done, {"loss": mean, "learning_rate": rate})
            self._progress.losses.clear()
        between = max(1, steps // ACCURACY_POINTS)
        if self._plan.phase.keep == "best" if done == steps else done % between == 0:
            self._measured(done, steps)
        if done % self._plan.state_steps == 0 or (done == steps and done > self._plan.state_steps):
            self._save()

    def _measured(self, done: int, steps: int) -> None:
        accuracy = self._measure()
        if accuracy is None:
            return
        if done < steps:
            self._curve.add(done, {"accuracy": accuracy})
        # of equals the later one, which has learned from more
        if self._plan.phase.keep == "best" and accuracy >= self._progress.best_accuracy:
            self._progress.best_step, self._progress.best_accuracy = done, accuracy
            weights = spreading.trained_weights(self._model)
            if self._state is not None:
                self._state.save_best(done, weights)

    def _keep_best(self) -> None:
        best = self._progress.best_step
        if best is not None and best < self._progress.step:
            spreading.set_weights(self._model, self._state.best(best) if self._state is not None else {})

    def _save(self) -> None:
        weights = spreading.trained_weights(self._model)
        optimizer = spreading.optimizer_state(self._model, self._optimizer)
        if self._state is not None:
            self._progress.history = self._curve.rows
            self._state.save(self._progress, weights, optimizer)

    def _resume(self) -> None:
        saved = self._state.latest() if self._state is not None else None
        progress = self._processes.same(saved[0] if saved else None)
        if not isinstance(progress, Progress):
            return
        weights, optimizer = (saved[1], saved[2]) if saved else ({}, {})
        spreading.set_weights(self._model, weights)
        spreading.set_optimizer_state(self._model, self._optimizer, optimizer)
        self._progress = progress
        self._curve.resume(progress.history)


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the full learning rate at a step, from 0: up in a line, then down along half a cosine, 0..1."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def _adamw(model: nn.Module, phase: ScoreModelPhase) -> torch.optim.AdamW:
    """AdamW over what requires a gradient; biases and norms do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": phase.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=phase.learning_rate, betas=BETAS, fused=True)
