"""The size of one piece of work: training, scoring or generating with one model over many like rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rsqa_pipeline.profile import ClipStep
from rsqa_pipeline.sizing import memory
from rsqa_pipeline.sizing.flops import (
    Trained,
    clip_flops,
    language_flops,
    training_passes,
    vision_flops,
)
from rsqa_pipeline.sizing.hardware import Card
from rsqa_pipeline.sizing.model_shape import ClipShape, VlmShape


@dataclass(frozen=True)
class Size:
    """What an asset takes; all counts are estimates, and 0 where no model runs."""

    samples: float = 0.0
    tokens: float = 0.0
    """Text and image tokens through language models and text towers, every pass counted."""
    flops: float = 0.0
    memory: float = 0.0
    """Peak bytes on one GPU."""
    seconds: float = 0.0
    """Of one GPU, over all GPUs."""
    disk: float = 0.0
    """Bytes of the output."""

    def __add__(self, other: Size) -> Size:
        """One after the other: memory is the larger one; samples are the first one's."""
        return Size(
            self.samples or other.samples,
            self.tokens + other.tokens,
            self.flops + other.flops,
            max(self.memory, other.memory),
            self.seconds + other.seconds,
            self.disk + other.disk,
        )

    def times(self, count: int, disk: float) -> Size:
        """``count`` trainings on the same samples, one after the other, each with an output of ``disk`` bytes."""
        return Size(
            self.samples,
            self.tokens * count,
            self.flops * count,
            self.memory,
            self.seconds * count,
            disk * count,
        )


@dataclass(frozen=True)
class Rows:
    """Rows of one kind: ``count`` images, or texts without an image, each with ``texts`` texts that share it."""

    count: float
    image_tokens: int
    texts: float
    text_tokens: float
    """Of one text with its question and template."""

    @property
    def tokens(self) -> float:
        """Tokens of a row whose texts share the image."""
        return self.image_tokens + self.texts * self.text_tokens


def mixed(parts: Sequence[Rows]) -> Rows:
    """Rows of several kinds as one kind with the same images, image tokens, texts and text tokens in all."""
    count = sum(part.count for part in parts)
    texts = sum(part.count * part.texts for part in parts)
    text_tokens = sum(part.count * part.texts * part.text_tokens for part in parts)
    image_tokens = round(sum(part.count * part.image_tokens for part in parts) / max(1.0, count))
    return Rows(count, image_tokens, texts / max(1.0, count), text_tokens / max(1.0, texts))


@dataclass(frozen=True)
class Machine:
    """The card, the share of its peak that work reaches, and the profile's type of weights."""

    card: Card
    used_share: float
    weight_bytes: int
    on_cpu: bool

    def seconds(self, flops: float) -> float:
        return flops / (self.card.bf16_tflops * 1e12 * self.used_share)

    def reading(self, size: float) -> float:
        return size / (self.card.bandwidth_tbs * 1e12 * self.used_share)

    @property
    def own(self) -> float:
        """Bytes taken before any model."""
        return memory.LIBRARIES if self.on_cpu else 0.0


def train_vlm(
    shape: VlmShape,
    rows: Rows,
    epochs: float,
    rows_per_pass: float,
    trained: set[Trained],
    machine: Machine,
    *,
    trained_weights: float,
    recomputed: bool,
    processes: int = 1,
    split: bool = False,
    float32_weights: bool = False,
    head_tokens: float | None = None,
) -> Size:
    """Supervised or ranking training.

    Args:
        rows_per_pass: of one process.
        split: weights, gradients and optimizer are divided over the processes.
        float32_weights: frozen weights are float32, too, as in the score model's training.
        head_tokens: tokens of a row that go through the output head; None: all of them.
    """
    vision, language = training_passes(trained, recomputed)
    heads = rows.tokens if head_tokens is None else head_tokens
    per_row = vision * vision_flops(shape, rows.image_tokens) if rows.image_tokens else 0.0
    per_row += language * language_flops(shape, rows.tokens, heads)
    flops = rows.count * epochs * per_row
    in_pass = rows_per_pass * rows.tokens
    frozen_bytes = 4 if float32_weights else machine.weight_bytes
    held = memory.state(shape.weights + trained_weights * ("lora" in trained), trained_weights, frozen_bytes)
    used = held / (processes if split else 1)
    if language > 1:
        used += memory.activations(shape.text, in_pass, machine.weight_bytes, recomputed)
    if "vision" in trained:
        patches = rows_per_pass * rows.image_tokens * shape.merge**2
        used += memory.activations(shape.vision, patches, machine.weight_bytes, recomputed)
    used += memory.logits(rows_per_pass * heads, shape.vocabulary)
    tokens = rows.count * epochs * rows.tokens
    return Size(rows.count, tokens, flops, used + machine.own, machine.seconds(flops))


def score(shape: VlmShape, rows: Rows, tokens_per_pass: float, machine: Machine) -> Size:
    """One forward pass over every row by the score model."""
    flops = rows.count * (vision_flops(shape, rows.image_tokens) + language_flops(shape, rows.tokens, 0))
    largest = memory.inference(shape.text, max(tokens_per_pass, rows.tokens), machine.weight_bytes)
    used = shape.weights * machine.weight_bytes + largest + machine.own
    return Size(rows.count, rows.count * rows.tokens, flops, used, machine.seconds(flops))


def generate(shape: VlmShape, rows: Rows, new_tokens: float, rows_per_pass: float, machine: Machine) -> Size:
    """Decoding token by token: each step reads all weights and the keys and values so far once per batch.

    Args:
        rows: ``texts`` replies to each; ``text_tokens`` is the prompt's length.
    """
    replies = rows.count * rows.texts
    length = rows.image_tokens + rows.text_tokens + new_tokens
    per_reply = vision_flops(shape, rows.image_tokens) + language_flops(shape, length, new_tokens)
    kept = memory.keys(shape.text, rows_per_pass * length, machine.weight_bytes)
    held = shape.weights * machine.weight_bytes
    steps = replies / rows_per_pass * new_tokens
    flops = replies * per_reply
    seconds = max(machine.seconds(flops), machine.reading(steps * (held + kept)))
    prompt = memory.inference(shape.text, rows_per_pass * (length - new_tokens), machine.weight_bytes)
    return Size(replies, replies * length, flops, held + kept + prompt + machine.own, seconds)


def run_clip(shape: ClipShape, images: float, texts: float, text_tokens: float, batch: int, machine: Machine) -> Size:
    """Embeds images and texts."""
    seen, said = clip_flops(shape, text_tokens)
    flops = images * seen + texts * said
    used = shape.weights * machine.weight_bytes + machine.own
    used += memory.inference(shape.vision, batch * shape.patches, machine.weight_bytes)
    return Size(texts, texts * text_tokens, flops, used, machine.seconds(flops))


def train_clip(
    shape: ClipShape,
    samples: float,
    text_tokens: float,
    epochs: float,
    step: ClipStep,
    processes: int,
    machine: Machine,
) -> Size:
    """Contrastive training; a batch, or a chunk of it, is one pass. A frozen vision tower sees each image once.

    A batch is divided over the processes. In chunks, each sample is embedded once more.
    """
    seen, said = clip_flops(shape, text_tokens)
    frozen, passes = step.frozen_vision, 3 if step.chunk_size is None else 4
    batch = min(math.ceil(step.batch_size / processes), step.chunk_size or step.batch_size)
    flops = samples * (seen + passes * epochs * said) if frozen else passes * samples * epochs * (seen + said)
    trained = shape.weights - (shape.vision_weights if frozen else 0)
    used = memory.state(shape.weights, trained, machine.weight_bytes) + machine.own
    used += memory.activations(shape.text, batch * text_tokens, machine.weight_bytes, recomputed=False)
    if frozen:
        used += memory.inference(shape.vision, CLIP_IMAGE_BATCH * shape.patches, machine.weight_bytes)
    else:
        used += memory.activations(shape.vision, batch * shape.patches, machine.weight_bytes, recomputed=False)
    return Size(samples, samples * epochs * text_tokens, flops, used, machine.seconds(flops))


CLIP_IMAGE_BATCH = 256
"""Images that a frozen vision tower sees at once (`captioned_images.IMAGE_BATCH_SIZE`)."""
