"""One training loop for every phase of the recipe: AdamW, warm-up, cosine, and a saved state to resume from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import device_of
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tracking.run_logger import RunLogger

LOG_EVERY = 20
SAVE_EVERY = 100


@dataclass(frozen=True)
class Phase:
    """How long and how fast one phase trains."""

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    warmup_steps: int = 100
    weight_decay: float = 0.05


Loss = Callable[[np.random.Generator], torch.Tensor]
"""Loss of one step: draws its batch from the given generator and returns a scalar with a gradient."""


def train(
    phase: Phase, modules: Iterable[nn.Module], loss: Loss, compute: Compute, state: Path | None, logger: RunLogger
) -> None:
    """Trains the modules' parameters that require a gradient, in place.

    Each step's batch is drawn from a generator seeded by (seed, step) alone, and the models have no dropout, so
    weights, optimizer moments and the step number are the whole state: a killed and resumed run ends with the same
    weights as an uninterrupted one.

    Args:
        modules: trained and saved; their order must be the same when a run is resumed.
        loss: see `Loss`.
        compute: dtype of the matrix products; the weights stay float32.
        state: file of the phase's state; written every SAVE_EVERY steps and at the end, resumed from if it
            exists. None saves no state.

    Raises:
        ModelError: the loss is NaN or infinite.
    """
    network = nn.ModuleList(modules)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=phase.learning_rate, betas=(0.9, 0.95), weight_decay=phase.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(phase, step))
    first = _restore(state, network, optimizer, schedule) if state else 0
    device = device_of(compute).type
    network.train()
    for step in tqdm(range(first, phase.steps), initial=first, total=phase.steps, desc=phase.name, leave=False):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=compute.dtype == "bfloat16"):
            value = loss(np.random.default_rng([phase.seed, step]))
        if not torch.isfinite(value):
            raise ModelError(f"{phase.name}: loss is {value.item()} at step {step}; lower its learning rate")
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        done = step + 1
        if done % LOG_EVERY == 0 or done == phase.steps:
            logger.log_metrics({f"{phase.name}_loss": value.item()}, step=done)
        if state and (done % SAVE_EVERY == 0 or done == phase.steps):
            _save(state, network, optimizer, schedule, done)
    network.eval()


def _rate(phase: Phase, step: int) -> float:
    warmup = min(phase.warmup_steps, phase.steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, phase.steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _restore(
    state: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    if not state.is_file():
        return 0
    saved = torch.load(state, weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    return int(saved["step"])


def _save(
    state: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    step: int,
) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    temporary = state.with_suffix(".writing")
    torch.save(
        {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            # the schedule's function is code, not state
            "schedule": {k: v for k, v in schedule.state_dict().items() if k != "lr_lambdas"} | {"lr_lambdas": [None]},
            "step": step,
        },
        temporary,
    )
    temporary.replace(state)
