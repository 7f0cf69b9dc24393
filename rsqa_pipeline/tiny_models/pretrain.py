"""Trains the shipped tiny models: ``rsqa pretrain-tiny``. The demo loads the result and never runs this."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tiny_models.general_material import GeneralMaterial
from rsqa_pipeline.tiny_models.model_card import model_card
from rsqa_pipeline.tiny_models.recipe import Schedule, TrainedClip, TrainedVlm, make_clip, make_vlm
from rsqa_pipeline.tiny_models.scene_accuracy import MEASUREMENT_COMPUTE, clip_accuracies, vlm_accuracies
from rsqa_pipeline.tiny_models.scene_material import SceneMaterial
from rsqa_pipeline.tracking.run_logger import RunLogger

Kind = Literal["vlm_expert", "vlm", "clip"]
KINDS: tuple[Kind, ...] = ("vlm_expert", "vlm", "clip")
"""``vlm_expert`` knows the domain, and the score model starts from it. ``vlm`` and ``clip`` are the general models to
fine-tune; ``vlm`` starts from the expert's tower."""
CHECKPOINTS = Path(__file__).parent / "checkpoints"
STATE = Path(".rsqa/pretrain-tiny")
SCHEDULE = Schedule(
    vlm_perception_steps=4000,
    clip_perception_steps=1000,
    vlm_steps=2400,
    vlm_harder_steps=(2000, 1200),
    clip_steps=2000,
    batch_size=64,
    language_batch_size=24,
    seed=0,
)
GENERAL_SCHEDULE = Schedule(
    vlm_perception_steps=400,
    clip_perception_steps=0,
    vlm_steps=600,
    vlm_harder_steps=(200, 250, 300),
    clip_steps=0,
    batch_size=32,
    language_batch_size=10,
    seed=0,
)
SCENES = 16_000
COMPUTE = Compute(device="cpu", dtype="bfloat16")
GENERAL_COMPUTE = Compute(device="cpu", dtype="float32")
"""Without bfloat16 units a CPU is fifty times slower in bfloat16."""


def pretrain_tiny(
    out: Path,
    logger: RunLogger,
    kinds: Sequence[Kind] = KINDS,
    schedule: Schedule = SCHEDULE,
    general_schedule: Schedule = GENERAL_SCHEDULE,
    scenes: int = SCENES,
    state: Path = STATE,
    compute: Compute = COMPUTE,
) -> Metrics:
    """Trains the tiny models on scenes of PRETRAIN_SEEDS and measures them on fresh ones.

    Args:
        out: gets one folder per kind, in save_pretrained layout, over an older one; and README.md, the model card, if
            all kinds are trained. ``vlm`` alone needs the folder ``vlm_expert`` there.
        scenes: number of different training scenes.
        state: folder from which a killed run is resumed. A finished phase is not trained again. To retrain, delete the
            folder, or the file of one phase and those of all phases after it.

    Returns:
        Accuracies on fresh scenes, 0..1, by name; and the training seconds of this call.
    """

    def make(kind: Kind) -> TrainedVlm | TrainedClip:
        if kind == "vlm_expert":
            return make_vlm(SceneMaterial(scenes, schedule.seed), schedule, compute, state, logger)
        general = GeneralMaterial(scenes, general_schedule.seed)
        if kind == "clip":
            return make_clip(general, schedule, GENERAL_COMPUTE, state / "general", logger)
        seeing = load_vlm(out / "vlm_expert", MEASUREMENT_COMPUTE)
        return make_vlm(general, general_schedule, GENERAL_COMPUTE, state / "general", logger, seeing)

    metrics: Metrics = {}
    for kind in kinds:
        started = time.monotonic()
        made = make(kind)
        metrics[f"{kind}_training_seconds"] = time.monotonic() - started
        folder = out / kind
        made.save(folder)
        measured = clip_accuracies(folder) if kind == "clip" else vlm_accuracies(folder, made.heads)
        metrics |= {f"{kind}_{name}": value for name, value in measured.items()}
    logger.log_metrics(metrics)
    if set(kinds) == set(KINDS):
        card = model_card(metrics, schedule, general_schedule, scenes, f"{torch.get_num_threads()} CPU threads")
        (out / "README.md").write_text(card, encoding="utf-8")
    return metrics
