"""Inputs of backbones without shared sequences: a row for each candidate, and its image beside it each time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import ContextTooLongError, Encoder, Row, opened
from rsqa_pipeline.score_model.inputs.sequences import Pixels, Place, TokenSequence, one_behind_another

_OF_THE_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def encoder_for(processor: ProcessorMixin, max_length: int) -> Encoder:
    """The encoder that fits the processor's family."""
    return (Encoder if isinstance(processor, QwenVLProcessor) else SeparateEncoder)(processor, max_length)


class SeparateEncoder(Encoder):
    """Encodes with any image-text processor that puts an image where one placeholder token stands."""

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        super().__init__(processor, max_length)
        self._tokenizing = threading.Lock()  # a fast tokenizer changes its settings in a call, also for an image

    def pixels(self, image: str | Image.Image, most: int | None = None) -> Pixels:
        """As `Encoder.pixels`; these families fix how many tokens an image takes, so none is made smaller."""
        decoded, word = opened(image), self.processor.image_token
        with self._tokenizing:
            seen = self.processor(text=[word], images=[decoded], add_special_tokens=False, return_tensors="pt")
        tensors = {name: tensor for name, tensor in seen.items() if name not in _OF_THE_TEXT}
        tokens = tuple(seen["input_ids"][0].tolist())
        if most is not None and len(tokens) > most:
            raise ContextTooLongError(f"the image takes {len(tokens)} tokens, there is room for {most}")
        return Pixels(tensors, tokens)

    def sequences(
        self, rows: Mapping[Place, Row], pixels: Pixels | None, most: int | None = None
    ) -> list[TokenSequence]:
        """One for each candidate."""
        texts = {key: self.widen(row, pixels) for key, row in rows.items()}
        return [one_behind_another({key: text}, len(text), pixels) for key, text in texts.items()]

    def tensors(self, sequences: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; images in the order of the rows that show them."""
        tensors = super().tensors([TokenSequence(s.tokens, s.branches, s.ends, None) for s in sequences])
        shown = [sequence.pixels.tensors for sequence in sequences if sequence.pixels is not None]
        names = shown[0] if shown else ()
        return tensors | {name: _together([tensors[name] for tensors in shown]) for name in names}

    def _tokenized(
        self, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
    ) -> tuple[int, ...]:
        """As the `Encoder`'s; the tokenizer's control words inside data stay plain text."""
        plain = [Message(role=turn["role"], content=self._plain(turn["content"])) for turn in chat]
        with self._tokenizing:
            return super()._tokenized(plain, has_image, add_generation_prompt)

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
