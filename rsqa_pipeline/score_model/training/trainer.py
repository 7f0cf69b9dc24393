"""The training loop of a phase: AdamW, warm-up and cosine schedule, in one process or several, resumable.

AdamW with betas (0.9, 0.95) and a cosine schedule as in the paper. A step's rankings, order and learning rate depend
only on the settings and the step's number, so weights, optimizer state and that number are the complete state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.profile.score_model import ScoreModelPhase
from rsqa_pipeline.score_model.training import distributed
from rsqa_pipeline.score_model.training.checkpoints import Progress, TrainingState
from rsqa_pipeline.score_model.training.curve import TrainingCurve
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.score_model.training.losses import ranking_loss
from rsqa_pipeline.score_model.training.pair_batches import MicroBatch, PairBatches

BETAS = (0.9, 0.95)
MAX_GRADIENT_NORM = 1.0
"""Norm that gradients are clipped to."""
LOSS_POINTS = 20
ACCURACY_POINTS = 4


class PhaseTrainer:
    """Trains the parameters of a model that require a gradient, in place."""

    def __init__(
        self,
        model: nn.Module,
        data: PairBatches,
        group: ProcessGroup,
        state: TrainingState | None,
        curve: TrainingCurve,
        measure: Callable[[], float | None],
        *,
        phase: ScoreModelPhase,
        seed: int,
        bfloat16: bool,
        state_steps: int,
    ) -> None:
        """
        Args:
            model: as returned by `distributed.wrap_model`.
            state: to resume from and to save to; None in all processes except rank 0.
            curve: receives loss and accuracy.
            measure: held-out accuracy, 0..1, of the current model; called in every process at the same steps.
            bfloat16: matrix products in bfloat16; weights, gradients and the head stay float32.
            state_steps: optimizer steps between two saved states.
        """
        self._model = model
        self._data = data
        self._group = group
        self._state = state
        self._curve = curve
        self._measure = measure
        self._phase = phase
        self._seed = seed
        self._bfloat16 = bfloat16
        self._state_steps = state_steps
        self._optimizer = _adamw(model, phase)
        self._progress = Progress()

    def run(self) -> None:
        """Trains from the newest state, or from the beginning, to the last step.

        Raises:
            ModelError: the loss is not finite.
        """
        self._resume()
        steps = self._data.steps
        self._model.train()
        bar = tqdm(
            total=steps,
            initial=self._progress.step,
            desc=f"{self._curve.name} phase",
            unit="step",
            disable=not self._group.is_rank_zero,
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
        """Runs one optimizer step. Returns its loss, the mean over all processes' rankings, and its learning rate."""
        torch.manual_seed(self._seed + step)  # for backbones with dropout
        rate = self._phase.learning_rate * schedule(step, self._data.steps, self._phase.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        micro_batches = self._data.micro_batches(step, self._group.rank, self._group.world_size)
        total = torch.zeros((), device=self._group.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self._no_sync() if number < len(micro_batches) else nullcontext():
                total += self._backward(micro_batch)
        if self._group.world_size > 1:
            dist.all_reduce(total)
        if not torch.isfinite(total):
            raise ModelError(
                f"{self._curve.name} phase: loss is {total.item()} at step {step + 1}; lower its learning rate"
            )
        trained = [p for p in self._model.parameters() if p.grad is not None]
        nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
        self._optimizer.step()
        return total.item(), rate

    def _backward(self, micro_batch: MicroBatch) -> Tensor:
        """Adds the gradients of a micro batch and returns its weighted loss."""
        tensors = {
            name: tensor.to(self._group.device) for name, tensor in self._data.collate(micro_batch.rankings).items()
        }
        ranked, counts, gaps = (tensors.pop(name) for name in ("ranked", "counts", "mark_gaps"))
        with torch.autocast(self._group.device.type, torch.bfloat16, enabled=self._bfloat16):
            scores = self._model(**tensors)
        loss = micro_batch.weight * ranking_loss(scores, ranked, counts, self._phase.margin * gaps)
        # gradients are averaged over the processes, while one process would sum them; a text in no ranking
        # (see `PairBatches`) takes part with weight 0
        (loss * self._group.world_size + 0.0 * scores.sum()).backward()
        return loss.detach()

    def _no_sync(self) -> AbstractContextManager[None]:
        """A context in which gradients are accumulated but not yet exchanged."""
        return self._model.no_sync() if isinstance(self._model, DistributedDataParallel) else nullcontext()

    def _after_step(self, loss: float, rate: float, steps: int) -> None:
        done = self._progress.step
        self._progress.losses.append(loss)
        if done % max(1, steps // LOSS_POINTS) == 0:
            mean = sum(self._progress.losses) / len(self._progress.losses)
            self._curve.add(done, {"loss": mean, "learning_rate": rate})
            self._progress.losses.clear()
        between = max(1, steps // ACCURACY_POINTS)
        if self._phase.keep == "best" if done == steps else done % between == 0:
            self._record_accuracy(done, steps)
        if done % self._state_steps == 0 or (done == steps and done > self._state_steps):
            self._save()

    def _record_accuracy(self, done: int, steps: int) -> None:
        accuracy = self._measure()
        if accuracy is None:
            return
        if done < steps:
            self._curve.add(done, {"accuracy": accuracy})
        # among equals the later one is kept: it has learned from more
        if self._phase.keep == "best" and accuracy >= self._progress.best_accuracy:
            self._progress.best_step, self._progress.best_accuracy = done, accuracy
            weights = distributed.trained_weights(self._model)
            if self._state is not None:
                self._state.save_best(done, weights)

    def _keep_best(self) -> None:
        best = self._progress.best_step
        if best is not None and best < self._progress.step:
            distributed.set_weights(self._model, self._state.best(best) if self._state is not None else {})

    def _save(self) -> None:
        weights = distributed.trained_weights(self._model)
        optimizer = distributed.optimizer_state(self._model, self._optimizer)
        if self._state is not None:
            self._progress.history = self._curve.rows
            self._state.save(self._progress, weights, optimizer)

    def _resume(self) -> None:
        saved = self._state.latest() if self._state is not None else None
        progress = self._group.broadcast(saved[0] if saved else None)
        if not isinstance(progress, Progress):
            return
        weights, optimizer = (saved[1], saved[2]) if saved else ({}, {})
        distributed.set_weights(self._model, weights)
        distributed.set_optimizer_state(self._model, self._optimizer, optimizer)
        self._progress = progress
        self._curve.resume(progress.history)


def schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Fraction of the full learning rate at a step, from 0: linear warm-up, then down along half a cosine, 0..1."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def _adamw(model: nn.Module, phase: ScoreModelPhase) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient; no weight decay for biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": phase.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=phase.learning_rate, betas=BETAS, fused=True)
