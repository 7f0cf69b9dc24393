"""The recipe: perception first, then language. The same code serves embedded scenes and a profile's own images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from rsqa_pipeline.models.load import QwenVLProcessor, Vlm, device_of
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)
from rsqa_pipeline.tiny_models.contrastive import contrastive_loss
from rsqa_pipeline.tiny_models.language import Matching, Text, language_loss
from rsqa_pipeline.tiny_models.perception import Heads, Labels, Target, Tower, clip_tower, vlm_tower
from rsqa_pipeline.tiny_models.training import Phase, train
from rsqa_pipeline.tracking.run_logger import RunLogger

_STANDARDIZATION_IMAGES = 500
_NAMED_WORD_LENGTH = 3.0
"""Length added to a named word's vector, as a multiple of the mean length."""


class Material(Protocol):
    """Training data of small models. Every batch depends only on the given generator."""

    image_size: int
    """Side of the square images, in pixels."""
    vlm_targets: Mapping[str, Target]
    """What the VLM's tower learns to predict."""
    clip_targets: Mapping[str, Target]
    """The same for CLIP's tower."""
    smoothing: float
    """Label smoothing of the perception phase, 0..1."""
    faults: Sequence[str]
    """What can be wrong in a text to match."""
    words: Mapping[str, Mapping[str, Sequence[int]]]
    """Per-cell target -> word -> the target's classes that the word names; may be empty."""

    def texts(self) -> Iterable[str]:
        """Texts to train the tokenizers on."""

    def perception_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Labels]:
        """uint8 images (size, s, s, 3) and what is known about them."""

    def language_batch(self, rng: np.random.Generator, size: int, part: int) -> tuple[np.ndarray, Sequence[Text]]:
        """uint8 images (size, s, s, 3) and one or more texts about each, an answer among them.

        Args:
            part: part of the phase, from 0; the faults in later parts are harder to detect.
        """

    def caption_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        """uint8 images (size, s, s, 3) and one caption each."""


@dataclass(frozen=True)
class Schedule:
    """Length of the recipe's phases."""

    vlm_perception_steps: int
    clip_perception_steps: int
    vlm_steps: int
    vlm_harder_steps: tuple[int, ...]
    """Steps of the further parts of the language phase, each starting from half the learning rate."""
    clip_steps: int
    batch_size: int
    language_batch_size: int
    """Images per step of the VLM's language phase; each has several texts."""
    seed: int


@dataclass(frozen=True)
class TrainedVlm:
    model: Qwen2VLForConditionalGeneration
    processor: QwenVLProcessor
    heads: Heads
    """The linear heads of the perception phase, used as probes on the vision tower."""

    def save(self, folder: Path) -> None:
        """Writes model and processor; weights as float16, which halves the files and changes no relevant answer."""
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
    material: Material,
    schedule: Schedule,
    compute: Compute,
    state: Path | None,
    logger: RunLogger,
    seeing: Vlm | None = None,
) -> TrainedVlm:
    """Trains a VLM from random weights.

    Args:
        state: folder for the phases' states, from which a killed run is resumed; None saves none.
        seeing: a VLM whose processor and vision tower are the start; only the language model is then a new one.
    """
    processor = seeing.processor if seeing else train_vlm_processor(material.texts(), material.image_size)
    model = new_vlm(processor, schedule.seed)
    if seeing:
        model.model.visual.load_state_dict(seeing.model.model.visual.state_dict())
    model.to(device_of(compute))
    heads = Heads(material.vlm_targets, schedule.seed).to(device_of(compute))
    tower = vlm_tower(model)
    steps = schedule.vlm_perception_steps
    _train_tower("vlm_perception", steps, tower, model.model.visual, heads, material, schedule, compute, state, logger)
    model.model.visual.requires_grad_(False)
    standardize(model, heads, material, schedule)
    name_words(model, processor, heads, material.words)
    matching = Matching(material.faults).to(device_of(compute))
    model.set_attn_implementation({"text_config": "eager"})  # three times as fast in the backward pass on a CPU
    size = schedule.language_batch_size
    parts = [Phase("vlm_language", schedule.vlm_steps, size, 2e-3, schedule.seed + 1)]
    for number, steps in enumerate(schedule.vlm_harder_steps, start=1):
        parts.append(Phase(f"vlm_harder_{number}", steps, size, 1e-3, schedule.seed + 3 + number))
    for part, phase in enumerate(parts):

        def loss(rng: np.random.Generator, part: int = part) -> torch.Tensor:
            return language_loss(model, processor, matching, *material.language_batch(rng, size, part))

        train(phase, [model, matching], loss, compute, state / f"{phase.name}.pt" if state else None, logger)
    model.set_attn_implementation({"text_config": "sdpa"})
    return TrainedVlm(model, processor, heads)


@torch.no_grad()
def standardize(model: Any, heads: Heads, material: Material, schedule: Schedule) -> None:
    """Centres and scales the tower's tokens in its last layer, so that they match word vectors in size.

    After perception they are about fifty long and off centre, too large for an attention layer to add to.
    """
    images, _ = material.perception_batch(np.random.default_rng([schedule.seed, 0]), _STANDARDIZATION_IMAGES)
    tokens = vlm_tower(model)(images).flatten(0, 1)
    mean, deviation = tokens.mean(dim=0), tokens.std()
    last = model.model.visual.merger.mlp[-1]
    last.weight.div_(deviation)
    last.bias.sub_(mean).div_(deviation)
    heads.absorb_standardization(mean, deviation)


@torch.no_grad()
def name_words(
    model: Any, processor: QwenVLProcessor, heads: Heads, words: Mapping[str, Mapping[str, Sequence[int]]]
) -> None:
    """Turns each word's vector towards the image tokens of what it names, according to the heads.

    With the initial queries and keys of `architecture.new_vlm`, a word then attends to those tokens from the first
    step; the language phase learns how to use them. Words of several tokens are left unchanged.
    """
    vectors = model.get_input_embeddings().weight
    mean_length = vectors.norm(dim=1).mean()
    for target, meanings in words.items():
        weight = heads.layer(target).weight
        directions = weight - weight.mean(dim=0)
        for word, classes in meanings.items():
            for spelling in (f" {word}", word):
                tokens = processor.tokenizer(spelling, add_special_tokens=False)["input_ids"]
                if len(tokens) == 1:
                    meaning = directions[list(classes)].sum(dim=0)
                    vectors[tokens[0]].mul_(0.5).add_(_NAMED_WORD_LENGTH * mean_length * meaning / meaning.norm())


def make_clip(
    material: Material, schedule: Schedule, compute: Compute, state: Path | None, logger: RunLogger
) -> TrainedClip:
    """Trains a CLIP from random weights; arguments as `make_vlm`."""
    tokenizer = train_clip_tokenizer(material.texts())
    model = new_clip(tokenizer, material.image_size, schedule.seed + 2).to(device_of(compute))
    heads = Heads(material.clip_targets, schedule.seed + 2).to(device_of(compute))
    tower = clip_tower(model)
    steps = schedule.clip_perception_steps
    _train_tower("clip_perception", steps, tower, model.vision_model, heads, material, schedule, compute, state, logger)
    train(
        Phase("clip_contrast", schedule.clip_steps, schedule.batch_size, 5e-4, schedule.seed + 3),
        [model],
        lambda rng: contrastive_loss(model, tokenizer, *material.caption_batch(rng, schedule.batch_size)),
        compute,
        state / "clip_contrast.pt" if state else None,
        logger,
    )
    return TrainedClip(model, tokenizer, material.image_size, heads)


def _train_tower(
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
