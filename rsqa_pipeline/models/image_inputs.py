"""Images as the arguments of a VLM, and the tokens that stand for them in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.boxes import Frame
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.families import BoxForm, chat_form_of
from rsqa_pipeline.models.image_size import image_size, max_image_tokens
from rsqa_pipeline.models.prompt_length import MAX_PROMPT_TOKENS

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class ImageInputs:
    """The images of a batch."""

    tensors: dict[str, Tensor]
    """By the model's argument. Qwen-VL: ``pixel_values`` (patches of all images, values per patch) float32 and
    ``image_grid_thw`` (images, 3) int64. LLaVA: ``pixel_values`` (images, channels, height, width). Idefics3:
    ``pixel_values`` (images, tiles, channels, height, width) and ``pixel_attention_mask``."""
    tokens: list[tuple[int, ...]]
    """Of each image, the ids that replace its placeholder."""


def prepare_images(processor: ProcessorMixin, images: Sequence[Image.Image], context: int) -> ImageInputs:
    """The images for a context of so many tokens. A Qwen-VL's are made smaller to take at most half of it; the other
    families fix the number of tokens."""
    if not chat_form_of(processor).grid:
        parts = [prepare_image(processor, image) for image in images]
        tensors = pad_and_concatenate([part.tensors for part in parts])
        return ImageInputs(tensors, [tokens for part in parts for tokens in part.tokens])
    side_ratio = max(max(image.size) / min(image.size) for image in images)
    size = image_size(processor.image_processor, max_image_tokens(context), side_ratio)
    processed = processor.image_processor(images=list(images), size=size, return_tensors="pt")
    tensors = {name: processed[name] for name in ("pixel_values", "image_grid_thw")}
    merged = processor.image_processor.merge_size**2
    counts = (tensors["image_grid_thw"].prod(dim=1) // merged).tolist()
    return ImageInputs(tensors, [(processor.image_token_id,) * count for count in counts])


def prepare_image(processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
    """One image for a family whose processor replaces the placeholder in a text."""
    prepared = processor(text=[processor.image_token], images=[image], add_special_tokens=False, return_tensors="pt")
    tensors = {name: tensor for name, tensor in prepared.items() if name not in _TEXT_INPUTS}
    return ImageInputs(tensors, [tuple(prepared["input_ids"][0].tolist())])


def limit_images(processor: ProcessorMixin, context: int) -> None:
    """Changes the processor so that an image takes at most half of a context, as far as the family allows it.

    A Qwen-VL's images are made smaller, an Idefics3's are cut into fewer tiles; LLaVA's always take the same number of
    tokens.

    Raises:
        ModelError: even so, no text fits beside an image.
    """
    form, images = chat_form_of(processor), processor.image_processor
    limit = max_image_tokens(context)
    if form.grid:
        images.size = image_size(images, limit)
        return
    square = Image.new("RGB", (64, 64))
    if form.tiled:
        tile = int(images.max_image_size["longest_edge"])
        for tiles in range(int(images.size["longest_edge"]) // tile, 0, -1):
            images.size = {"longest_edge": tiles * tile}
            if len(prepare_image(processor, square).tokens[0]) <= limit:
                return
    found = len(prepare_image(processor, square).tokens[0])
    if found >= context:
        raise ModelError(f"an image takes {found} tokens, but a row may have {context}; raise max_length")


def box_frame(processor: ProcessorMixin, form: BoxForm, image: Image.Image) -> Frame:
    """What the boxes refer to that a model of a family writes about an image that generation shows it."""
    width, height = shown = image.size
    if form.frame == "square":
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return Frame((side, side), (-left, -top, side - left, side - top))
    if form.frame == "resized":
        grid = prepare_images(processor, [image], MAX_PROMPT_TOKENS).tensors["image_grid_thw"][0].tolist()
        patch = int(processor.image_processor.patch_size)
        shown = grid[2] * patch, grid[1] * patch
    return Frame(shown, (0, 0, width, height))


def expand(processor: ProcessorMixin, row: Sequence[int], image: Sequence[int]) -> list[int]:
    """The row's tokens with its placeholder, which it must have, replaced by the image's tokens."""
    at = row.index(processor.image_token_id)
    return [*row[:at], *image, *row[at + 1 :]]


def pad_and_concatenate(batch: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the same names, concatenated; those with fewer tiles or pixels than others are padded with 0, which
    the families ignore."""
    return {name: _padded([tensors[name] for tensors in batch]) for name in (batch[0] if batch else ())}


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        padding = [
            amount
            for want, size in zip(reversed(largest), reversed(tensor.shape[1:]), strict=True)
            for amount in (0, want - size)
        ]
        padded.append(F.pad(tensor, padding))
    return torch.cat(padded)
