"""What every training with a Hugging Face Trainer shares here: arguments, history, curve, supervised data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import constants
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import device_of
from rsqa_pipeline.plots import new_figure, save
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.records import Message
from rsqa_pipeline.tracking.run_logger import RunLogger

# TRL tells the hub about every trainer that starts; nothing leaves the machine from here
constants.HF_HUB_DISABLE_TELEMETRY = True

HistoryRow = dict[str, Any]
"""One optimizer step: ``{"phase": "captions", "step": 3, "loss": 2.1, ..}``; None where a number was not logged."""


@dataclass(frozen=True)
class Job:
    """Where and how a training runs, whatever it trains."""

    seed: int
    compute: Compute
    scratch: Path
    """Folder that the Trainer may write to; nothing in it is kept."""
    logger: RunLogger


@dataclass(frozen=True)
class Exercise:
    """One supervised example. Example: ``Exercise("images.tar#512+4311", [user turn], "three ships")``."""

    image: str
    """Reference, opened when the batch is made."""
    prompt: Sequence[Message]
    """The turns before the answer, the first by the user."""
    answer: str


@dataclass
class History(TrainerCallback):
    """Keeps chosen numbers of each optimizer step and passes them on to the run's logger."""

    logger: RunLogger
    phase: str
    columns: Mapping[str, str]
    """Name in the history -> name in the Trainer's log; what a step does not log, or logs as no number, is None."""
    rows: list[HistoryRow] = field(default_factory=list)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "learning_rate" not in logs:  # the Trainer's last log is a summary, not a step
            return
        numbers = {name: _finite(logs.get(source)) for name, source in self.columns.items()}
        self.rows.append({"phase": self.phase, "step": state.global_step, **numbers})
        found = {f"{self.phase}_{name}": value for name, value in numbers.items() if value is not None}
        self.logger.log_metrics(found, step=state.global_step)


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar without a printed line for each step; the numbers go to the history."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        pass


def only_progress_bar(trainer: Trainer) -> None:
    """Keeps a trainer from printing its log on standard output."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(QuietProgress)


def trainer_arguments(optimizer: Optimizer, job: Job) -> dict[str, Any]:
    """Arguments that SFTConfig and GRPOConfig share: AdamW, cosine schedule, no checkpoints, nothing sent anywhere."""
    on_cpu = device_of(job.compute).type == "cpu"
    return {
        "output_dir": str(job.scratch),
        "per_device_train_batch_size": optimizer.batch_size,
        "gradient_accumulation_steps": optimizer.gradient_accumulation,
        "num_train_epochs": optimizer.epochs,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": optimizer.warmup_steps,
        "weight_decay": optimizer.weight_decay,
        "adam_beta2": 0.95,
        "bf16": job.compute.dtype == "bfloat16",
        "use_cpu": on_cpu,
        # recomputing activations buys memory with time; only large models on a GPU need that
        "gradient_checkpointing": not on_cpu,
        "seed": job.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "dataloader_pin_memory": not on_cpu,
    }


def lazy_dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Rows whose ``image`` is a reference, as a dataset that opens images only when a batch asks for them.

    The image is given as ``images``, a list of one RGB image, as TRL's trainers want it. Memory holds the texts,
    and of the images one batch. A reference that cannot be opened raises ImageFault: ingest has decoded every image.
    """
    return Dataset.from_list([dict(row) for row in rows]).with_transform(_open_images)


def supervised_dataset(exercises: Sequence[Exercise]) -> Dataset:
    """Columns ``images``, ``prompt`` and ``completion`` for TRL's SFTTrainer, images opened lazily."""
    return lazy_dataset(
        [
            {
                "image": exercise.image,
                "prompt": [plain(message) for message in exercise.prompt],
                "completion": [plain({"role": "assistant", "content": exercise.answer.strip()})],
            }
            for exercise in exercises
        ]
    )


def plain(message: Message) -> Message:
    """The turn with the tokenizer's control marks broken up, as `models.conversation.render` does: data stays text."""
    return {"role": message["role"], "content": message["content"].replace("<|", "< |")}


def check_converged(rows: Sequence[HistoryRow], phase: str) -> None:
    """Raises ModelError where a step of the phase has no finite loss: such weights are no model."""
    for row in rows:
        if _finite(row["loss"]) is None:
            raise ModelError(f"{phase}: the loss is no finite number at step {row['step']}; lower the learning rate")


def final_loss(history: Sequence[HistoryRow], phase: str) -> float:
    """Mean loss over the last tenth of the phase's steps, at least one."""
    losses = [row["loss"] for row in history if row["phase"] == phase]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def write_history(rows: Sequence[HistoryRow], path: Path) -> None:
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def plot_losses(rows: Sequence[HistoryRow], path: Path) -> None:
    """Training loss over optimizer steps, one line a phase, steps counted through."""
    figure, axes = new_figure()
    before = 0.0
    for phase in dict.fromkeys(row["phase"] for row in rows):
        points = [(before + r["step"], r["loss"]) for r in rows if r["phase"] == phase]
        axes.plot([step for step, _ in points], [loss for _, loss in points], label=phase)
        before = points[-1][0]
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.set_title("Training loss")
    axes.legend()
    save(figure, path)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _open_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    opened = {name: values for name, values in batch.items() if name != "image"}
    opened["images"] = [[open_image(reference)] for reference in batch["image"]]
    return opened
