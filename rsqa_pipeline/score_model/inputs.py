"""From chats and images to the score model's tensors; training and scoring both go through here.

A row's text is tokenized once, with a single image placeholder, and widened to the image's own number of
tokens when its batch is put together; so texts can be sorted by length before any image is opened.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from rsqa_pipeline.images import open_image
from rsqa_pipeline.models.conversation import as_chat, render
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.records import Message


@dataclass(frozen=True)
class Pixels:
    """One image as the vision tower reads it."""

    values: Tensor
    """(patches, channels * time * height * width), float32, normalized."""
    grid: Tensor
    """(3,), patches over time, height and width."""


@dataclass(frozen=True)
class Row:
    """One candidate: its chat as tokens with one image placeholder, and which image it shows."""

    tokens: tuple[int, ...]
    image: Hashable | None
    """Key of the image among the batch's `Pixels`; None for text alone."""


class ContextTooLongError(ValueError):
    """The image's own tokens do not fit the model's context, so that no text could be scored."""


class Encoder:
    """Tokenizes chats, prepares images, and puts batches together."""

    def __init__(self, processor: QwenVLProcessor, max_length: int) -> None:
        self.processor = processor
        self.max_length = max_length
        """Tokens a row at most, the image's among them; a longer text loses its end."""

    def tokens(self, context: Sequence[Message], candidate: str, has_image: bool) -> tuple[int, ...]:
        """Tokens of the context followed by the candidate as the assistant's turn."""
        chat = as_chat([*context, Message(role="assistant", content=candidate)])
        text = render(self.processor, chat, has_image)
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def pixels(self, image: str | Image.Image) -> Pixels:
        """Raises ImageFault where the reference cannot be opened."""
        opened = open_image(image) if isinstance(image, str) else image
        seen = self.processor.image_processor(images=[opened], return_tensors="pt")
        return Pixels(seen["pixel_values"], seen["image_grid_thw"][0])

    def widen(self, row: Row, pixels: Pixels | None) -> list[int]:
        """The row's tokens with its image's own number of placeholders, cut to ``max_length``.

        Raises:
            ContextTooLongError: the cut would go through the image.
        """
        if pixels is None:
            return list(row.tokens[: self.max_length])
        count = int(pixels.grid.prod()) // self.processor.image_processor.merge_size**2
        at = row.tokens.index(self.processor.image_token_id)
        if at + count >= self.max_length:
            raise ContextTooLongError(
                f"the image ends at token {at + count}, the context holds {self.max_length}"
            )
        widened = [*row.tokens[:at], *[row.tokens[at]] * count, *row.tokens[at + 1 :]]
        return widened[: self.max_length]

    def batch(self, rows: Sequence[Row], pixels: Mapping[Hashable, Pixels]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; a shared image is in it once."""
        keys = list(dict.fromkeys(row.image for row in rows if row.image is not None))
        place = {key: index for index, key in enumerate(keys)}
        texts = [self.widen(row, pixels[row.image] if row.image is not None else None) for row in rows]
        width = max(len(text) for text in texts)
        ids = torch.full((len(rows), width), self.processor.tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, text in enumerate(texts):
            ids[index, : len(text)] = torch.tensor(text)
            mask[index, : len(text)] = 1
        tensors = {"input_ids": ids, "attention_mask": mask}
        if keys:
            tensors["pixel_values"] = torch.cat([pixels[key].values for key in keys])
            tensors["image_grid_thw"] = torch.stack([pixels[key].grid for key in keys])
            tensors["image_of_row"] = torch.tensor(
                [-1 if row.image is None else place[row.image] for row in rows]
            )
        return tensors
