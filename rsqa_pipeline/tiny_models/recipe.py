"""The recipe: perception first, then language. One code for the embedded scenes and for a profile's own images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import CLIPModel, PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from rsqa_pipeline.models.load import QwenVLProcessor, device_of
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)
from rsqa_pipeline.tiny_models.contrastive import contrastive_loss
from rsqa_pipeline.tiny_models.language import Answered, language_loss
from rsqa_pipeline.tiny_models.perception import Heads, Labels, Target, Tower, clip_tower, vlm_tower
from rsqa_pipeline.tiny_models.training import Phase, train
from rsqa_pipeline.tracking.run_logger import RunLogger


class Material(Protocol):
    """What small models learn from. Every batch is drawn from the generator that is given, and from nothing else."""

    image_size: int
    """Side of the square images, in pixels."""
    targets: Mapping[str, Target]
    smoothing: float
    """Label smoothing of the perception phase, 0..1."""

    def texts(self) -> Iterable[str]:
        """Texts to train the tokenizers on."""

    def perception_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Labels]:
        """uint8 images (size, s, s, 3) and what is known about them."""

    def language_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[Answered]]:
        """uint8 images (size, s, s, 3) and one or more texts about each."""

    def caption_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        """uint8 images (size, s, s, 3) and one caption each."""


@dataclass(frozen=True)
class Schedule:
    """Length of the recipe's phases."""

    vlm_perception_steps: int
    clip_perception_steps: int
    vlm_steps: int
    clip_steps: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class TrainedVlm:
    model: Qwen2VLForConditionalGeneration
    processor: QwenVLProcessor
    heads: Heads
    """The perception phase's linear heads: the probe on the vision tower."""

    def save(self, folder: Path) -> None:
        """Writes model and processor; weights as float16, which halves the files and changes no answer that matters."""
        _save_half(self.model, folder)
        self.processor.save_pretrained(folder)


@dataclass(frozen=True)
class TrainedClip:
    model: CLIPModel
    tokenizer: PreTrainedTokenizerFast
    image_size: int
    heads: Heads

    def save(self, folder: Path) -> None:
        _save_half(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        new_clip_image_processor(self.image_size).save_pretrained(folder)


def make_vlm(
    material: Material, schedule: Schedule, compute: Compute, state: Path | None, logger: RunLogger
) -> TrainedVlm:
    """Trains a VLM from random weights.

    Args:
        state: folder for the phases' states, to go on after a kill; None keeps none.
    """
    processor = train_vlm_processor(material.texts(), material.image_size)
    model = new_vlm(processor, schedule.seed).to(device_of(compute))
    heads = Heads(material.targets, schedule.seed).to(device_of(compute))
    tower = vlm_tower(model)
    steps = schedule.vlm_perception_steps
    _perceive("vlm_perception", steps, tower, model.model.visual, heads, material, schedule, compute, state, logger)
    model.model.visual.requires_grad_(False)
    train(
        Phase("vlm_language", schedule.vlm_steps, schedule.batch_size, 2e-3, schedule.seed + 1),
        [model],
        lambda rng: language_loss(model, processor, *material.language_batch(rng, schedule.batch_size)),
        compute,
        state / "vlm_language.pt" if state else None,
        logger,
    )
    return TrainedVlm(model, processor, heads)


def make_clip(
    material: Material, schedule: Schedule, compute: Compute, state: Path | None, logger: RunLogger
) -> TrainedClip:
    """Trains a CLIP from random weights; arguments as `make_vlm`."""
    tokenizer = train_clip_tokenizer(material.texts())
    model = new_clip(tokenizer, material.image_size, schedule.seed + 2).to(device_of(compute))
    heads = Heads(material.targets, schedule.seed + 2).to(device_of(compute))
    tower = clip_tower(model)
    steps = schedule.clip_perception_steps
    _perceive("clip_perception", steps, tower, model.vision_model, heads, material, schedule, compute, state, logger)
    train(
        Phase("clip_contrast", schedule.clip_steps, schedule.batch_size, 5e-4, schedule.seed + 3),
        [model],
        lambda rng: contrastive_loss(model, tokenizer, *material.caption_batch(rng, schedule.batch_size)),
        compute,
        state / "clip_contrast.pt" if state else None,
        logger,
    )
    return TrainedClip(model, tokenizer, material.image_size, heads)


def _perceive(
    name: str,
    steps: int,
    tower: Tower,
    weights: Any,
    heads: Heads,
    material: Material,
    schedule: Schedule,
    compute: Compute,
    state: Path | None,
    logger: RunLogger,
) -> None:
    def loss(rng: np.random.Generator) -> Any:
        images, labels = material.perception_batch(rng, schedule.batch_size)
        return heads.loss(tower(images), labels, material.smoothing)

    phase = Phase(name, steps, schedule.batch_size, 1.5e-3, schedule.seed)
    train(phase, [weights, heads], loss, compute, state / f"{name}.pt" if state else None, logger)


def _save_half(model: Any, folder: Path) -> None:
    dtype = model.dtype
    model.half().save_pretrained(folder)
    model.to(dtype)
