"""Trains the score model in three phases: text, caption, instruction pairs (paper, score model training).

Each phase starts from the one before and trains the parts that the profile names, with the profile's settings. A
killed phase resumes from its last state (`checkpoints`). With ``compute.launch`` it runs in several processes
(`launch`) and ends with the same weights as in one process.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.profile import Compute, Profile, ScoreModelSettings
from rsqa_pipeline.profile.score_model import LastPhase, ScoreModelPhase, ScoreModelPhases
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.score_model.inputs.encoder import ChatEncoder
from rsqa_pipeline.score_model.inputs.separate_encoder import encoder_for
from rsqa_pipeline.score_model.network.adapters import merge_adapters
from rsqa_pipeline.score_model.network.checkpoint import read_processor
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.pairs import Pair, accuracy, agrees, read_pairs, score_pairs
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training import distributed, launch
from rsqa_pipeline.score_model.training.checkpoints import TrainingState, state_key
from rsqa_pipeline.score_model.training.curve import TrainingCurve
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.score_model.training.fit_additions import fit_additions
from rsqa_pipeline.score_model.training.launch import Job
from rsqa_pipeline.score_model.training.pair_batches import Fault, PairBatches
from rsqa_pipeline.score_model.training.trainer import PhaseTrainer
from rsqa_pipeline.tracking.run_logger import RunLogger

PhaseName = Literal["text", "caption", "instruction"]

PHASES: Mapping[PhaseName, type[ScoreModelPhase]] = {
    "text": ScoreModelPhase,
    "caption": ScoreModelPhase,
    "instruction": LastPhase,
}
STARTS_FROM: dict[PhaseName, str] = {"caption": "score_head", "instruction": "caption_score_model"}
LOSS_NAMES = {"bradley_terry": "Bradley-Terry", "plackett_luce": "Plackett-Luce"}
CURVE_PAIRS = 256
"""Number of held-out pairs behind a point of the curve and behind the choice of the best weights; the last point of the
curve uses all of them."""


def run_text_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_head``: the base VLM's backbone with a head trained on text pairs."""
    return _run("text", inputs, out, settings, logger)


def run_caption_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``caption_score_model``: continues from the text phase with caption pairs."""
    return _run("caption", inputs, out, settings, logger)


def run_instruction_phase(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_model``: continues from the caption phase with instruction pairs; the model used for scoring.

    Caption pairs are replayed among them. The paper does not replay; without it a small model forgets captions in
    this phase, and captions are most of what it ranks.
    """
    metrics = _run("instruction", inputs, out, settings, logger)
    logger.log_model("score_model", out / "model")
    return metrics


def _run(name: PhaseName, inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    if settings.compute.launch:
        job = {
            "phase": name,
            "inputs": {key: str(path) for key, path in inputs.items()},
            "out": str(out),
            "settings": settings.model_dump(mode="json", include={"name", "seed", "compute", "score_model"}),
        }
        metrics: Metrics = launch.run_in_processes(__name__, job, settings.compute.launch, logger)
        return metrics
    return train_phase(name, inputs, out, settings, logger)


def train_job(job: Job, logger: RunLogger) -> Metrics:
    """Trains the phase of a job, in one of its processes."""
    inputs = {key: Path(path) for key, path in job["inputs"].items()}
    return train_phase(job["phase"], inputs, Path(job["out"]), job_settings(job), logger)


def job_settings(job: Job) -> Profile:
    """Rebuilds from JSON the profile that a stage function gets, which has only the keys that its asset lists."""
    dump = job["settings"]
    phases: dict[str, Any] = {
        name: phase and PHASES[name].model_validate(phase) for name, phase in dump["score_model"]["phases"].items()
    }
    section = {**dump["score_model"], "phases": ScoreModelPhases.model_construct(**phases)}
    return Profile.model_construct(
        name=dump["name"],
        seed=dump["seed"],
        compute=Compute.model_validate(dump["compute"]),
        score_model=ScoreModelSettings.model_construct(**section),
    )


def train_phase(
    name: PhaseName, inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger
) -> Metrics:
    """Trains one phase; rank 0 writes model/, history.json, plots/training.png and quarantine.parquet.

    Returns:
        Rank 0's metrics; none in the other processes.

    Raises:
        DataError: no usable pair. ModelError: the loss is not finite, or there is no GPU where one is required.
    """
    group = distributed.init_group(settings.compute)
    phase: ScoreModelPhase | None = getattr(settings.score_model.phases, name)
    model, processor = _start(name, inputs, settings)
    kinds = phase.pairs if isinstance(phase, LastPhase) else [name]
    if f"{name}_preferences" not in inputs:  # captions alone: the instruction phase has caption pairs, or is skipped
        kinds = ["caption"]
    sources = [inputs[f"{kind}_preferences"] for kind in kinds]
    train, heldout = ([pair for source in sources for pair in read_pairs(source, s)] for s in ("train", "heldout"))
    if phase is None:
        encoder = encoder_for(processor, settings.score_model.max_length)
        return (
            _skip_phase(model, encoder, TrainingCurve(name, logger), heldout, settings, out)
            if group.is_rank_zero
            else {}
        )
    encoder = encoder_for(processor, settings.score_model.max_length)
    # in every pass all processes gather weights (FSDP) or average gradients of the vision tower, so none may skip it
    synchronized = group.world_size > 1 and (settings.score_model.fsdp or "vision" in phase.train)
    always_image = synchronized and any(pair["image"] is not None for pair in train)
    data = PairBatches(train, encoder, phase, settings.seed, settings.score_model.tokens_per_pass, always_image)
    if not data.rankings:
        raise DataError(
            f"{', '.join(map(str, sources))}: no usable training pair "
            f"({len(train)} read, {len(data.faults)} with a fault)"
        )
    state = (
        TrainingState(settings.state / "score_model" / name, state_key(inputs, settings))
        if group.is_rank_zero
        else None
    )
    curve = TrainingCurve(name, logger)
    model = _train(model, data, heldout, curve, state, phase, settings, group)
    if state is None:
        return {}
    scorer = _scorer(model, encoder, settings)
    if isinstance(phase, LastPhase):
        with autocast(group.device, settings):
            model.additions = fit_additions(scorer, data, train, phase.batch_size, settings)
    metrics = _write(scorer, processor, data, heldout, len(train), curve, phase, settings, out)
    state.clear()
    return metrics


def _start(name: PhaseName, inputs: Mapping[str, Path], settings: Profile) -> tuple[ScoreModel, ProcessorMixin]:
    """Model and processor that the phase starts from: the backbone of the scorer's VLM, or the phase before."""
    if name == "text":
        own = (inputs["base_models"] / "scorer.json").is_file()
        base = base_model(inputs["base_models"], "scorer" if own else "vlm")
        return ScoreModel.from_base(base, settings.score_model.activation), read_processor(base)
    start = inputs[STARTS_FROM[name]] / "model"
    return ScoreModel.from_pretrained(start), read_processor(start)


def _skip_phase(
    model: ScoreModel,
    encoder: ChatEncoder,
    curve: TrainingCurve,
    heldout: Sequence[Pair],
    settings: Profile,
    out: Path,
) -> Metrics:
    """Outputs of a phase that is left out: the model that it would have started from, and that model's accuracy."""
    scorer = _scorer(model, encoder, settings)
    curve.add(0, {"accuracy": accuracy([agrees(pair) for pair in score_pairs(scorer, heldout)])})
    model.save_pretrained(out / "model")
    encoder.processor.tokenizer.model_max_length = encoder.max_length
    encoder.processor.save_pretrained(out / "model")
    curve.write(out, "no")
    return _quarantine(out, curve.name, [], len(heldout))


def _train(
    model: ScoreModel,
    data: PairBatches,
    heldout: Sequence[Pair],
    curve: TrainingCurve,
    state: TrainingState | None,
    phase: ScoreModelPhase,
    settings: Profile,
    group: ProcessGroup,
) -> ScoreModel:
    """Trains the model. In rank 0 the result is complete, on its device, without adapters."""
    score_model = settings.score_model
    # FSDP splits the model, so rank 0 puts the learned weights into this copy
    full_copy = copy.deepcopy(model) if score_model.fsdp and group.is_rank_zero else None
    adapters = model.train_only(phase.train, phase.lora, settings.seed)
    if score_model.gradient_checkpointing:
        model.recompute_activations()
    wrapped = distributed.wrap_model(model, group, score_model.fsdp)
    scorer = _scorer(model, data.encoder, settings)
    curve_pairs = heldout[:: max(1, len(heldout) // CURVE_PAIRS)]

    def measure() -> float | None:
        with autocast(group.device, settings):
            return accuracy([agrees(pair) for pair in score_pairs(scorer, curve_pairs)])

    PhaseTrainer(
        wrapped,
        data,
        group,
        state,
        curve,
        measure,
        phase=phase,
        seed=settings.seed,
        bfloat16=settings.compute.dtype == "bfloat16",
        state_steps=score_model.state_steps,
    ).run()
    weights = distributed.trained_weights(wrapped) if score_model.fsdp else {}
    distributed.close_group()
    if full_copy is not None:
        adapters = full_copy.train_only(phase.train, phase.lora, settings.seed)
        distributed.set_weights(full_copy, weights)
        model = full_copy.to(group.device)
    merge_adapters(adapters)
    return model


def _write(
    scorer: Scorer,
    processor: ProcessorMixin,
    data: PairBatches,
    heldout: Sequence[Pair],
    n_train: int,
    curve: TrainingCurve,
    phase: ScoreModelPhase,
    settings: Profile,
    out: Path,
) -> Metrics:
    """Measures accuracy on all held-out pairs and writes the outputs."""
    with autocast(scorer.model.head.weight.device, settings):
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


def _scorer(model: ScoreModel, encoder: ChatEncoder, settings: Profile) -> Scorer:
    return Scorer(model, encoder.processor, encoder.max_length, "in training", settings.compute.batch_tokens)


def autocast(device: torch.device, settings: Profile) -> torch.autocast:
    """Context that runs matrix products in the profile's dtype."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.compute.dtype == "bfloat16")


def _quarantine(out: Path, name: str, faults: Sequence[Fault], pairs: int) -> Metrics:
    quarantine = Quarantine(name)
    for fault in faults:
        quarantine.add(*fault)
    quarantine.write(out)
    return quarantine.metrics(kept=pairs - len(faults))


if __name__ == "__main__":
    launch.run_worker(Path(sys.argv[1]), train_job)
