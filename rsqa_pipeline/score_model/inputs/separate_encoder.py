"""Inputs of backbones without shared sequences: one row per candidate, each with its own copy of the image."""

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
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder, ContextTooLongError, load_image
from rsqa_pipeline.score_model.inputs.sequences import CandidateIndex, Pixels, TokenSequence, concatenate

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def encoder_for(processor: ProcessorMixin, max_length: int) -> ChatEncoder:
    """The encoder that fits the processor's family."""
    return (ChatEncoder if isinstance(processor, QwenVLProcessor) else SeparateEncoder)(processor, max_length)


class SeparateEncoder(ChatEncoder):
    """Encodes with any image-text processor that puts the image in place of one placeholder token."""

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        super().__init__(processor, max_length)
        self._tokenizer_lock = threading.Lock()  # any call, even for an image, changes a fast tokenizer's settings

    def pixels(self, image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        """As `ChatEncoder.pixels`; these families fix the number of tokens per image, so images are not made
        smaller."""
        decoded, placeholder = load_image(image), self.processor.image_token
        with self._tokenizer_lock:
            prepared = self.processor(
                text=[placeholder], images=[decoded], add_special_tokens=False, return_tensors="pt"
            )
        tensors = {name: tensor for name, tensor in prepared.items() if name not in _TEXT_INPUTS}
        tokens = tuple(prepared["input_ids"][0].tolist())
        if max_tokens is not None and len(tokens) > max_tokens:
            raise ContextTooLongError(f"the image takes {len(tokens)} tokens, there is room for {max_tokens}")
        return Pixels(tensors, tokens)

    def sequences(
        self, rows: Mapping[CandidateIndex, CandidateRow], pixels: Pixels | None, max_tokens: int | None = None
    ) -> list[TokenSequence]:
        """One sequence per candidate."""
        texts = {key: self.expand_image_tokens(row, pixels) for key, row in rows.items()}
        return [concatenate({key: text}, len(text), pixels) for key, text in texts.items()]

    def tensors(self, sequences: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; images in the order of the rows that show them."""
        tensors = super().tensors([TokenSequence(s.tokens, s.branches, s.ends, None) for s in sequences])
        shown = [sequence.pixels.tensors for sequence in sequences if sequence.pixels is not None]
        names = shown[0] if shown else ()
        return tensors | {name: _pad_and_concatenate([tensors[name] for tensors in shown]) for name in names}

    def _tokenized(
        self, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
    ) -> tuple[int, ...]:
        """As in `ChatEncoder`; the tokenizer's control words inside data stay plain text."""
        plain = [Message(role=turn["role"], content=self._plain(turn["content"])) for turn in chat]
        with self._tokenizer_lock:
            return super()._tokenized(plain, has_image, add_generation_prompt)

    def _plain(self, text: str) -> str:
        for word in self.processor.tokenizer.get_added_vocab():
            text = text.replace(word, f"{word[0]} {word[1:]}")
        return text


def _pad_and_concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenated; tensors with fewer tiles or pixels than others are padded with 0, which the families ignore."""
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
