"""Shared by all fine-tuning: arguments of a Hugging Face Trainer, history, loss curve, supervised data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
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
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.conversation import escape_control_tokens
from rsqa_pipeline.models.load import device_of
from rsqa_pipeline.plots import new_figure, save
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.records import Message
from rsqa_pipeline.tracking.run_logger import RunLogger

# TRL reports every trainer that starts to the hub; disabled, so that no data leaves the machine
constants.HF_HUB_DISABLE_TELEMETRY = True

StepMetrics = dict[str, Any]
"""One optimizer step: ``{"phase": "captions", "step": 3, "loss": 2.1, ..}``; None where a number was not logged."""


NAMED_SAMPLES = 8
"""Number of a step's samples that an error names."""


@dataclass(frozen=True)
class TrainingRun:
    """Settings of one training that do not depend on what is trained."""

    seed: int
    compute: Compute
    scratch: Path
    """Folder of this training alone. It outlives a kill, and is deleted when the training has ended."""
    logger: RunLogger
    stopped: Event = field(default_factory=Event)
    """Set when a training in processes of its own is to end at once."""


@dataclass(frozen=True)
class SftExample:
    """One supervised example, e.g. ``SftExample("images.tar#512+4311", [user turn], "three ships", "c7..")``."""

    image: str
    """Reference; the image is opened when the batch is built."""
    prompt: Sequence[Message]
    """The turns before the answer; the first one is the user's."""
    answer: str
    sample_id: str


@dataclass
class History(TrainerCallback):
    """Records selected metrics of each optimizer step and sends them to the run's logger."""

    logger: RunLogger
    phase: str
    columns: Mapping[str, str]
    """Name in the history -> name in the Trainer's log. A value that is missing or not finite is recorded as None."""
    rows: list[StepMetrics] = field(default_factory=list)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Restores the steps before a kill. They are logged again, since the logger's run is a new one."""
        for logs in state.log_history:
            self._add(logs, logs["step"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and "learning_rate" in logs:  # the Trainer's last log is a summary, not a step
            self._add(logs, state.global_step)

    def _add(self, logs: Mapping[str, float], step: int) -> None:
        numbers = {name: _finite_or_none(logs.get(source)) for name, source in self.columns.items()}
        self.rows.append({"phase": self.phase, "step": step, **numbers})
        found = {f"{self.phase}_{name}": value for name, value in numbers.items() if value is not None}
        self.logger.log_metrics(found, step=step)


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar, without printing a line per step."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        pass


def disable_log_printing(trainer: Trainer) -> None:
    """Stops a trainer from printing its log; only the progress bar remains."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(QuietProgress)


def trainer_arguments(optimizer: Optimizer, training_run: TrainingRun, output: Path) -> dict[str, Any]:
    """Arguments that SFTConfig and GRPOConfig share: AdamW, cosine schedule, no reporting.

    Args:
        output: folder that the Trainer writes to; `CheckpointRule` says when.
    """
    on_cpu = device_of(training_run.compute).type == "cpu"
    return {
        "output_dir": str(output),
        "per_device_train_batch_size": optimizer.batch_size,
        "gradient_accumulation_steps": optimizer.gradient_accumulation,
        "num_train_epochs": optimizer.epochs,
        "max_steps": optimizer.steps or -1,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": optimizer.warmup_steps,
        "weight_decay": optimizer.weight_decay,
        "adam_beta2": 0.95,
        "bf16": training_run.compute.dtype == "bfloat16",
        "use_cpu": on_cpu,
        # recomputing activations saves memory but takes time; only large models on a GPU need it
        "gradient_checkpointing": not on_cpu,
        "seed": training_run.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "dataloader_pin_memory": not on_cpu,
    }


@contextmanager
def trained_in_float32(model: Any) -> Iterator[None]:
    """Holds the weights that require gradients in float32, and then converts them back to the model's type.

    A bfloat16 weight has 8 bits of precision, so a step below 1/256 of the weight would be rounded away.
    """
    dtype = model.dtype
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    yield
    for parameter in trained:
        parameter.data = parameter.data.to(dtype)


def lazy_dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Dataset of rows whose ``image`` is a reference; an image is opened when a batch needs it.

    The image becomes the column ``images``, a list of one RGB image, as TRL's trainers expect. Only the texts and the
    images of one batch are in memory. A reference that cannot be opened raises ImageFault; ingest has decoded every
    image once.
    """
    return Dataset.from_list([dict(row) for row in rows]).with_transform(_open_images)


def supervised_dataset(processor: ProcessorMixin, examples: Sequence[SftExample]) -> Dataset:
    """Columns ``images``, ``prompt``, ``completion``, ``sample_id`` for TRL's SFTTrainer; images are opened lazily."""
    return lazy_dataset(
        [
            {
                "image": example.image,
                "prompt": [as_data(processor, message) for message in example.prompt],
                "completion": [as_data(processor, {"role": "assistant", "content": example.answer.strip()})],
                "sample_id": example.sample_id,
            }
            for example in examples
        ]
    )


def as_data(processor: ProcessorMixin, message: Message) -> Message:
    """The turn with control tokens escaped, as `models.conversation.render` does."""
    return {"role": message["role"], "content": escape_control_tokens(processor, message["content"])}


def not_finite(what: str, phase: str, step: int, sample_ids: Sequence[str]) -> ModelError:
    """The error of a loss or a gradient that is not a finite number: such weights are unusable.

    Args:
        step: optimizer step, from 1.
        sample_ids: the samples of that step; the first `NAMED_SAMPLES` are named.
    """
    ids = list(dict.fromkeys(sample_ids))
    more = f" and {len(ids) - NAMED_SAMPLES} more" if len(ids) > NAMED_SAMPLES else ""
    return ModelError(
        f"{phase}: the {what} is not a finite number at step {step}, samples "
        f"{', '.join(ids[:NAMED_SAMPLES])}{more}; lower the learning rate, or look at these samples"
    )


def final_loss(history: Sequence[StepMetrics], phase: str) -> float:
    """Mean loss over the last tenth of the phase's steps, at least one step."""
    losses = [row["loss"] for row in history if row["phase"] == phase]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def write_history(rows: Sequence[StepMetrics], path: Path) -> None:
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def write_seed_histories(histories: Mapping[int, Sequence[StepMetrics]], out: Path) -> None:
    """Writes ``history.json``, the rows of every seed in order with their ``seed``, and a plot of the first seed's."""
    write_history([{**row, "seed": seed} for seed, rows in histories.items() for row in rows], out / "history.json")
    plot_losses(next(iter(histories.values())), out / "plots" / "training.png")


def mean_final_loss(histories: Mapping[int, Sequence[StepMetrics]], phase: str) -> float:
    """Mean over seeds of `final_loss`."""
    losses = [final_loss(rows, phase) for rows in histories.values()]
    return sum(losses) / len(losses)


def plot_losses(rows: Sequence[StepMetrics], path: Path) -> None:
    """Plots training loss over optimizer steps, one line per phase; steps are counted across phases."""
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


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _open_images(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    opened = {name: values for name, values in batch.items() if name != "image"}
    opened["images"] = [[open_image(reference)] for reference in batch["image"]]
    return opened
