"""Trains the score model in three phases: text, caption, instruction pairs (paper, score model training).

Each phase starts from the one before and trains the parts that the profile names; the phases' numbers are the
profile's. A killed phase goes on from its last state (`training_state`). With ``compute.launch`` it runs in several
processes (`launch`), which end with the weights that one would have.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.score_model import LastPhase, ScoreModelPhase
from rsqa_pipeline.records import QUARANTINE, Metrics, write_table
from rsqa_pipeline.score_model.inputs.encoder import Encoder
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.network.adapters import merge_adapters
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.pairs import Pair, accuracy, agrees, read_pairs, score_pairs
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training import distributed as processes
from rsqa_pipeline.score_model.training import launch
from rsqa_pipeline.score_model.training.checkpoints import TrainingState, state_key
from rsqa_pipeline.score_model.training.curve import TrainingCurve
from rsqa_pipeline.score_model.training.distributed import Processes
from rsqa_pipeline.score_model.training.pair_batches import Fault, PairData
from rsqa_pipeline.score_model.training.trainer import Optimization, Plan
from rsqa_pipeline.tracking.run_logger import RunLogger

PhaseName = Literal["text", "caption", "instruction"]

STARTS_FROM: dict[PhaseName, str] = {"caption": "score_head", "instruction": "caption_score_model"}
LOSS_NAMES = {"bradley_terry": "Bradley-Terry", "plackett_luce": "Plackett-Luce"}
CURVE_PAIRS = 256
"""Held-out pairs behind a point of the curve, and behind the choice of the best weights; the last point of the curve
is over all of them."""


def run_text_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_head``: the base VLM's backbone with a head learned from text pairs."""
    return _run("text", inputs, out, settings, logger)


def run_caption_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``caption_score_model``: goes on from the text phase with caption pairs."""
    return _run("caption", inputs, out, settings, logger)


def run_instruction_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_model``: goes on from the caption phase with instruction pairs; the model that scores.

    Caption pairs are replayed among them. The paper does not replay; without it a small model forgets captions in
    this phase, and captions are most of what it ranks.
    """
    metrics = _run("instruction", inputs, out, settings, logger)
    logger.log_model("score_model", out / "model")
    return metrics


def _run(name: PhaseName, inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    if settings.compute.launch:
        return launch.in_processes(__name__, name, inputs, out, settings, logger)
    return train_phase(name, inputs, out, settings, logger)


def train_phase(
    name: PhaseName, inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger
) -> Metrics:
    """Trains one phase; the first process writes model/, history.json, plots/training.png and quarantine.parquet.

    Returns:
        The first process's metrics; none in the others.

    Raises:
        DataError: no usable pair. ModelError: a loss that is no number, no GPU where one is asked for.
    """
    group = processes.join(settings.compute)
    phase: ScoreModelPhase | None = getattr(settings.score_model.phases, name)
    model, processor = _start(name, inputs, settings)
    kinds = phase.pairs if isinstance(phase, LastPhase) else [name]
    sources = [inputs[f"{kind}_preferences"] for kind in kinds]
    train, heldout = ([pair for source in sources for pair in read_pairs(source, s)] for s in ("train", "heldout"))
    if phase is None:
        encoder = encoder_for(processor, settings.score_model.max_length)
        return _passed_on(model, encoder, TrainingCurve(name, logger), heldout, settings, out) if group.first else {}
    encoder = encoder_for(processor, settings.score_model.max_length)
    # all processes gather weights (FSDP) or average gradients of the vision tower in every pass: none may sit one out
    together = group.count > 1 and (settings.score_model.fsdp or "vision" in phase.train)
    blank = together and any(pair["image"] is not None for pair in train)
    data = PairData(train, encoder, phase, settings.seed, settings.score_model.tokens_per_pass, blank)
    if not data.rankings:
        raise DataError(
            f"{', '.join(map(str, sources))}: no usable training pair "
            f"({len(train)} read, {len(data.faults)} with a fault)"
        )
    state = TrainingState(settings.state / "score_model" / name, state_key(inputs, settings)) if group.first else None
    curve = TrainingCurve(name, logger)
    model = _optimize(model, data, heldout, curve, state, phase, settings, group)
    if state is None:
        return {}
    scorer = _scorer(model, encoder, settings)
    metrics = _write(scorer, processor, data, heldout, len(train), curve, phase, settings, out)
    state.clear()
    return metrics


def _start(name: PhaseName, inputs: Mapping[str, Path], settings: Profile) -> tuple[ScoreModel, ProcessorMixin]:
    """What the phase starts from: the base VLM's backbone, or the phase before."""
    if name == "text":
        base = base_model(inputs["base_models"], "vlm")
        return ScoreModel.from_base(base, settings.score_model.activation), read_processor(base)
    start = inputs[STARTS_FROM[name]] / "model"
    return ScoreModel.from_pretrained(start), read_processor(start)


def _passed_on(
    model: ScoreModel,
    encoder: Encoder,
    curve: TrainingCurve,
    heldout: Sequence[Pair],
    settings: Profile,
    out: Path,
) -> Metrics:
    """Outputs of a phase that is left out: the model that it would have started from, and how right that is."""
    scorer = _scorer(model, encoder, settings)
    curve.add(0, {"accuracy": accuracy([agrees(pair) for pair in score_pairs(scorer, heldout)])})
    model.save_pretrained(out / "model")
    encoder.processor.tokenizer.model_max_length = encoder.max_length
    encoder.processor.save_pretrained(out / "model")
    curve.write(out, "no")
    return _quarantine(out, curve.name, [], len(heldout))


def _optimize(
    model: ScoreModel,
    data: PairData,
    heldout: Sequence[Pair],
    curve: TrainingCurve,
    state: TrainingState | None,
    phase: ScoreModelPhase,
    settings: Profile,
    group: Processes,
) -> ScoreModel:
    """The model, trained; in the first process it is whole, on its device, without adapters."""
    score_model = settings.score_model
    # FSDP takes the model apart, so the first process puts what was learned into this copy
    whole = copy.deepcopy(model) if score_model.fsdp and group.first else None
    adapters = model.train_only(phase.train, phase.lora, settings.seed)
    if score_model.gradient_checkpointing:
        model.recompute_activations()
    spread = processes.spread(model, group, score_model.fsdp)
    scorer = _scorer(model, data.encoder, settings)
    shown = heldout[:: max(1, len(heldout) // CURVE_PAIRS)]

    def measure() -> float | None:
        with _products(group.device, settings):
            return accuracy([agrees(pair) for pair in score_pairs(scorer, shown)])

    plan = Plan(phase, settings.seed, settings.compute.dtype == "bfloat16", score_model.state_steps)
    Optimization(spread, data, plan, group, state, curve, measure).run()
    weights = processes.trained_weights(spread) if score_model.fsdp else {}
    processes.leave()
    if whole is not None:
        adapters = whole.train_only(phase.train, phase.lora, settings.seed)
        processes.set_weights(whole, weights)
        model = whole.to(group.device)
    merge_adapters(adapters)
    return model


def _write(
    scorer: Scorer,
    processor: ProcessorMixin,
    data: PairData,
    heldout: Sequence[Pair],
    n_train: int,
    curve: TrainingCurve,
    phase: ScoreModelPhase,
    settings: Profile,
    out: Path,
) -> Metrics:
    """Measures on all held-out pairs and writes the outputs."""
    with _products(scorer.model.head.weight.device, settings):
        scored = score_pairs(scorer, heldout)
    verdicts = [agrees(pair) for pair in scored]
    truths = [agrees(pair, row["true_margin"] or 0.0) for pair, row in zip(scored, heldout, strict=True)]
    curve.add(data.steps, {"accuracy": accuracy(verdicts)})
    scorer.model.save_pretrained(out / "model")
    processor.tokenizer.model_max_length = data.encoder.max_length
    processor.save_pretrained(out / "model")
    curve.write(out, LOSS_NAMES[phase.loss])
    faults = data.faults + [
        (row["pair_id"], "not_scored", "no score for one of the held-out pair's texts")
        for row, verdict in zip(heldout, verdicts, strict=True)
        if verdict is None
    ]
    counts = _quarantine(out, curve.name, faults, n_train + len(heldout))
    known = {"heldout_accuracy": accuracy(verdicts), "heldout_truth_accuracy": accuracy(truths)}
    return counts | {
        "truncated_texts": data.truncated,
        "train_loss": curve.last_loss,
        **{key: value for key, value in known.items() if value is not None},
    }


def _scorer(model: ScoreModel, encoder: Encoder, settings: Profile) -> Scorer:
    return Scorer(model, encoder.processor, encoder.max_length, "in training", settings.compute.batch_tokens)


def _products(device: torch.device, settings: Profile) -> torch.autocast:
    """Matrix products in the profile's dtype."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.compute.dtype == "bfloat16")


def _quarantine(out: Path, name: str, faults: Sequence[Fault], pairs: int) -> Metrics:
    rows = [
        {"stage": f"score_model.{name}", "sample_id": pair, "reason": reason, "detail": detail}
        for pair, reason, detail in faults
    ]
    bad = write_table(out / "quarantine.parquet", QUARANTINE, rows)
    return {"input_rows": pairs, "kept_rows": pairs - bad, "quarantined_rows": bad}


if __name__ == "__main__":
    launch.work(Path(sys.argv[1]), train_phase)
