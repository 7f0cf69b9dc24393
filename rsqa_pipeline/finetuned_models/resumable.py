"""A Hugging Face Trainer that resumes after a kill and stops at the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from rsqa_pipeline.finetuned_models.checkpoints import CheckpointRule, Checkpoints
from rsqa_pipeline.finetuned_models.training import History, not_finite, trained_in_float32


class ResumableTrainer(Trainer):
    """Mixin, before a trainer of TRL: trains in place and resumes from the newest of its checkpoints.

    A checkpoint holds the weights that require a gradient, adapters or not, as they are trained; all others are those
    of the model that the training started from.
    """

    _batch: list[str]
    """Ids of the samples since the last optimizer step."""

    def train_or_resume(self, history: History, checkpoints: Checkpoints) -> None:
        """Trains to the last step; from the newest checkpoint where there is one.

        Raises:
            ModelError: a loss or a gradient is not finite.
        """
        self._batch = []
        self._phase = history.phase
        self._checkpoints = checkpoints
        self.add_callback(CheckpointRule(checkpoints))
        newest = checkpoints.newest()
        with trained_in_float32(self.model):
            if newest is None:
                self.train()
            else:
                state = TrainerState.load_from_json(str(newest / TRAINER_STATE_NAME))
                if state.global_step < state.max_steps:
                    self.train(resume_from_checkpoint=str(newest))
                else:  # finished; the Trainer would train one step more
                    self._load_from_checkpoint(str(newest))
                    history.on_train_begin(self.args, state, self.control)
        self.model.eval()

    def check_loss(self, loss: Tensor, sample_ids: Sequence[str]) -> Tensor:
        """The loss of one batch, before its gradients are applied.

        Raises:
            ModelError: it is not finite.
        """
        self._batch.extend(sample_ids)
        if not math.isfinite(loss.item()):
            raise not_finite("loss", self._phase, self.state.global_step + 1, self._batch)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after each step; a gradient that is not finite makes every weight so."""
        if not math.isfinite(logs.get("grad_norm", 0.0)):
            raise not_finite("gradient", self._phase, self.state.global_step, self._batch)
        self._batch.clear()
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None  # called for checkpoints only
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self._trained()}, folder / SAFE_WEIGHTS_NAME)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except BaseException:
            self._checkpoints.discard_unfinished()  # also so that a full disk has room for the next attempt
            raise

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(weights[name])

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL writes a card with each checkpoint; nobody reads it."""

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
