"""Trains the shipped tiny models: ``rsqa pretrain-tiny``. The demo loads the result and never runs this."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tiny_models.model_card import model_card
from rsqa_pipeline.tiny_models.recipe import Schedule, make_clip, make_vlm
from rsqa_pipeline.tiny_models.scene_accuracy import clip_accuracies, vlm_accuracies
from rsqa_pipeline.tiny_models.scene_material import SceneMaterial
from rsqa_pipeline.tracking.run_logger import RunLogger

CHECKPOINTS = Path(__file__).parent / "checkpoints"
STATE = Path(".rsqa/pretrain-tiny")
SCHEDULE = Schedule(
    vlm_perception_steps=4000,
    clip_perception_steps=300,
    vlm_steps=2400,
    vlm_harder_steps=(2000, 1200),
    clip_steps=400,
    batch_size=64,
    language_batch_size=24,
    seed=0,
)
SCENES = 16_000
COMPUTE = Compute(device="cpu", dtype="bfloat16")


def pretrain_tiny(
    out: Path,
    logger: RunLogger,
    kinds: Sequence[Literal["vlm", "clip"]] = ("vlm", "clip"),
    schedule: Schedule = SCHEDULE,
    scenes: int = SCENES,
    state: Path = STATE,
    compute: Compute = COMPUTE,
) -> Metrics:
    """Trains the tiny models on scenes of PRETRAIN_SEEDS and measures them on fresh ones.

    Args:
        out: gets one folder per kind, in save_pretrained layout, over an older one; and README.md, the model card, if
            both kinds are trained.
        scenes: number of different training scenes.
        state: folder from which a killed run is resumed. A finished phase is not trained again. To retrain, delete the
            folder, or the file of one phase and those of all phases after it.

    Returns:
        Accuracies on fresh scenes, 0..1, by name; and the training seconds of this call.
    """
    material = SceneMaterial(scenes, schedule.seed)
    metrics: Metrics = {}
    for kind in kinds:
        started = time.monotonic()
        made = (make_vlm if kind == "vlm" else make_clip)(material, schedule, compute, state, logger)
        metrics[f"{kind}_training_seconds"] = time.monotonic() - started
        folder = out / kind
        made.save(folder)
        measured = vlm_accuracies(folder, made.heads) if kind == "vlm" else clip_accuracies(folder)
        metrics |= {f"{kind}_{name}": value for name, value in measured.items()}
    logger.log_metrics(metrics)
    if len(kinds) == 2:
        card = model_card(metrics, schedule, scenes, f"{torch.get_num_threads()} CPU threads")
        (out / "README.md").write_text(card, encoding="utf-8")
    return metrics
