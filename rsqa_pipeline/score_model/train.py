"""Trains the score model in three phases: text, caption, instruction pairs (paper, score model training).

Each phase starts from the one before and trains the parts that the profile names, with the Bradley-Terry
loss. AdamW with betas (0.9, 0.95) and a cosine schedule as in the paper; the phases' numbers are the
profile's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rsqa_pipeline import plots
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import QwenVLProcessor, base_model, device_of, load_processor
from rsqa_pipeline.profile import Profile, ScoreModelPhase
from rsqa_pipeline.records import QUARANTINE, Metrics, write_table
from rsqa_pipeline.score_model.inputs import Encoder
from rsqa_pipeline.score_model.losses import bradley_terry
from rsqa_pipeline.score_model.model import ScoreModel
from rsqa_pipeline.score_model.pairs import Pair, accuracy, agrees, read_pairs, score_pairs
from rsqa_pipeline.score_model.scorer import Scorer
from rsqa_pipeline.score_model.training_data import Fault, PairData
from rsqa_pipeline.tracking.run_logger import RunLogger

PhaseName = Literal["text", "caption", "instruction"]

LOSS_POINTS = 20
ACCURACY_POINTS = 4
CURVE_PAIRS = 256
"""Held-out pairs behind a point of the curve; the last point is over all of them."""
BETAS = (0.9, 0.95)

HistoryRow = dict[str, float | None]
"""``{"step": 40, "loss": 0.31, "accuracy": None, "learning_rate": 0.0004}``; None where not measured."""


def run_text_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_head``: the base VLM's backbone with a head learned from text pairs."""
    base = base_model(inputs["base_models"], "vlm")
    model = ScoreModel.from_base(base, settings.score_model.activation)
    return _run("text", model, load_processor(base), [inputs["text_preferences"]], out, settings, logger)


def run_caption_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``caption_score_model``: goes on from the text phase with caption pairs."""
    start = inputs["score_head"] / "model"
    model, processor = ScoreModel.from_pretrained(start), load_processor(start)
    return _run("caption", model, processor, [inputs["caption_preferences"]], out, settings, logger)


def run_instruction_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_model``: goes on from the caption phase with instruction pairs; the model that scores.

    Caption pairs are replayed among them. The paper does not replay; without it a small model forgets captions in
    this phase, and captions are most of what it ranks.
    """
    start = inputs["caption_score_model"] / "model"
    model, processor = ScoreModel.from_pretrained(start), load_processor(start)
    pairs = [inputs["instruction_preferences"], inputs["caption_preferences"]]
    metrics = _run("instruction", model, processor, pairs, out, settings, logger)
    logger.log_model("score_model", out / "model")
    return metrics


def _run(
    name: PhaseName,
    model: ScoreModel,
    processor: QwenVLProcessor,
    folders: Sequence[Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
) -> Metrics:
    """Trains one phase and writes model/, history.json, plots/training.png and quarantine.parquet."""
    phase: ScoreModelPhase = getattr(settings.score_model.phases, name)
    train, heldout = ([pair for folder in folders for pair in read_pairs(folder, s)] for s in ("train", "heldout"))
    encoder = Encoder(processor, settings.score_model.max_length)
    data = PairData(train, encoder, phase.epochs, phase.batch_size, settings.seed)
    if not data.pairs:
        raise DataError(
            f"{folders[0]} has no usable training pair ({len(train)} read, {len(data.faults)} with a fault)"
        )
    scorer = Scorer(model.to(device_of(settings.compute)), processor, encoder.max_length, version="in training")
    curve = TrainingCurve(name, scorer, heldout[:: max(1, len(heldout) // CURVE_PAIRS)], phase.batch_size, logger)
    model.train_only(phase.train)
    _train(model, data, curve, phase, settings, out)
    scored = score_pairs(scorer, heldout, phase.batch_size)
    verdicts = [agrees(pair) for pair in scored]
    truths = [agrees(pair, row["true_margin"] or 0.0) for pair, row in zip(scored, heldout, strict=True)]
    curve.finish(accuracy(verdicts))
    model.save_pretrained(out / "model")
    processor.tokenizer.model_max_length = encoder.max_length
    processor.save_pretrained(out / "model")
    _write_history(out, curve.rows, name)
    faults = data.faults + [
        (row["pair_id"], "not_scored", "no score for one of the held-out pair's texts")
        for row, verdict in zip(heldout, verdicts, strict=True)
        if verdict is None
    ]
    counts = _quarantine(out, name, faults, len(train) + len(heldout))
    known = {"heldout_accuracy": accuracy(verdicts), "heldout_truth_accuracy": accuracy(truths)}
    return counts | {
        "truncated_texts": data.truncated,
        "train_loss": next(float(row["loss"]) for row in reversed(curve.rows) if row["loss"] is not None),
        **{key: value for key, value in known.items() if value is not None},
    }


def _quarantine(out: Path, name: PhaseName, faults: Sequence[Fault], pairs: int) -> Metrics:
    rows = [
        {"stage": f"score_model.{name}", "sample_id": pair, "reason": reason, "detail": detail}
        for pair, reason, detail in faults
    ]
    bad = write_table(out / "quarantine.parquet", QUARANTINE, rows)
    return {"input_rows": pairs, "kept_rows": pairs - bad, "quarantined_rows": bad}


def _train(
    model: ScoreModel,
    data: PairData,
    curve: TrainingCurve,
    phase: ScoreModelPhase,
    settings: Profile,
    out: Path,
) -> None:
    steps = max(1, len(data) // (phase.batch_size * phase.gradient_accumulation))
    scratch = out / "trainer"
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=phase.batch_size,
        gradient_accumulation_steps=phase.gradient_accumulation,
        learning_rate=phase.learning_rate,
        weight_decay=phase.weight_decay,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        lr_scheduler_type="cosine",
        warmup_steps=phase.warmup_steps,
        bf16=settings.compute.dtype == "bfloat16",
        use_cpu=device_of(settings.compute).type == "cpu",
        seed=settings.seed,
        # The order of learning is fixed in the data itself, all epochs of it.
        train_sampling_strategy="sequential",
        logging_steps=max(1, steps // LOSS_POINTS),
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = PairTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=data.collate, callbacks=[curve]
    )
    # It prints every log line on standard output; the curve has a progress bar instead.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    shutil.rmtree(scratch, ignore_errors=True)


class PairTrainer(Trainer):
    """The ordinary trainer with the loss over a batch's pairs."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Bradley-Terry loss, the mean over the batch's pairs."""
        pairs = inputs.pop("pairs")
        scores = model(**inputs)
        loss = bradley_terry(scores[pairs[:, 0]], scores[pairs[:, 1]])
        return (loss, {"scores": scores}) if return_outputs else loss


class TrainingCurve(TrainerCallback):
    """Loss and held-out accuracy over steps, to the logger, the progress bar and ``rows``."""

    def __init__(
        self, name: PhaseName, scorer: Scorer, heldout: Sequence[Pair], batch_size: int, logger: RunLogger
    ) -> None:
        self.name = name
        self.rows: list[HistoryRow] = []
        self._scorer = scorer
        self._heldout = heldout
        self._batch_size = batch_size
        self._logger = logger
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = tqdm(total=state.max_steps, desc=f"{self.name} phase", unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)
        between = max(1, state.max_steps // ACCURACY_POINTS)
        if state.global_step % between == 0 and state.global_step < state.max_steps and self._heldout:
            scored = score_pairs(self._scorer, self._heldout, self._batch_size)
            self._add(state.global_step, {"accuracy": accuracy([agrees(pair) for pair in scored])})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._add(
                state.global_step,
                {"loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"])},
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def finish(self, heldout_accuracy: float | None) -> None:
        """Puts the accuracy over all held-out pairs at the last step."""
        self._add(int(self.rows[-1]["step"] or 0), {"accuracy": heldout_accuracy})

    def _add(self, step: int, values: Mapping[str, float | None]) -> None:
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step, "loss": None, "accuracy": None, "learning_rate": None})
        self.rows[-1].update(values)
        known = {f"{self.name}.{key}": value for key, value in values.items() if value is not None}
        self._logger.log_metrics(known, step=step)
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.3g}" for key, value in values.items() if value is not None})


def _write_history(out: Path, rows: Sequence[HistoryRow], name: PhaseName) -> None:
    (out / "history.json").write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
    figure, (losses, accuracies) = plots.new_panels(2, 9.0, 3.4)
    for axes, key in ((losses, "loss"), (accuracies, "accuracy")):
        points = [(row["step"], row[key]) for row in rows if row[key] is not None]
        axes.plot(*zip(*points, strict=True), marker="o", color=plots.colour("score_model"))
        axes.set_xlabel("optimizer step")
    losses.set_title(f"Bradley-Terry loss, {name} phase")
    accuracies.set_title("held-out preference accuracy")
    accuracies.axhline(0.5, color=plots.colour("random"), linewidth=1, linestyle="--", label="chance")
    accuracies.legend()
    plots.save(figure, out / "plots" / "training.png")
