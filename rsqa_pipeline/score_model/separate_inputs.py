"""Inputs of backbones without shared sequences: a row for each candidate, and its image beside it each time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.images import open_image
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs import Encoder, Pixels, Row, padded

_OF_THE_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def encoder_for(processor: ProcessorMixin, max_length: int) -> Encoder:
    """The encoder that fits the processor's family."""
    return (Encoder if isinstance(processor, QwenVLProcessor) else SeparateEncoder)(processor, max_length)


class SeparateEncoder(Encoder):
    """Encodes with any image-text processor that puts an image where one placeholder token stands."""

    def tokens(self, context: Sequence[Message], candidate: str, has_image: bool) -> tuple[int, ...]:
        """As `Encoder.tokens`; the tokenizer's control words inside data stay plain text."""
        plain = [Message(role=m["role"], content=self._plain(m["content"])) for m in context]
        return super().tokens(plain, self._plain(candidate), has_image)

    def pixels(self, image: str | Image.Image) -> Pixels:
        """Raises ImageFault where the reference cannot be opened."""
        opened = open_image(image) if isinstance(image, str) else image
        word = self.processor.image_token
        seen = self.processor(text=[word], images=[opened], add_special_tokens=False, return_tensors="pt")
        tensors = {name: tensor for name, tensor in seen.items() if name not in _OF_THE_TEXT}
        return Pixels(tensors, tuple(seen["input_ids"][0].tolist()))

    def batch(self, rows: Sequence[Row], pixels: Mapping[Hashable, Pixels]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; images in the order of the rows that show them."""
        texts = [self.widen(row, pixels[row.image] if row.image is not None else None) for row in rows]
        ids, mask = padded(texts, self.processor.tokenizer.pad_token_id)
        ends = torch.tensor([[index, len(text) - 1] for index, text in enumerate(texts)])
        shown = [pixels[row.image].tensors for row in rows if row.image is not None]
        names = shown[0] if shown else ()
        images = {name: _together([tensors[name] for tensors in shown]) for name in names}
        return {"input_ids": ids, "attention_mask": mask, "ends": ends, **images}

    def _plain(self, text: str) -> str:
        for word in self.processor.tokenizer.get_added_vocab():
            text = text.replace(word, f"{word[0]} {word[1:]}")
        return text


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """One after another; what has fewer tiles or pixels than others is filled with 0, which the families leave out."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    filled = []
    for tensor in tensors:
        missing = [
            have
            for want, size in zip(reversed(largest), reversed(tensor.shape[1:]), strict=True)
            for have in (0, want - size)
        ]
        filled.append(F.pad(tensor, missing))
    return torch.cat(filled)
