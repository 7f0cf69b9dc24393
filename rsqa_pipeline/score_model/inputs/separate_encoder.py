"""Inputs of backbones without shared sequences: one row per candidate, each with its own copy of the image."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.models.families import chat_form_of
from rsqa_pipeline.models.image_inputs import pad_and_concatenate, prepare_image
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder, ContextTooLongError, load_image
from rsqa_pipeline.score_model.inputs.sequences import CandidateIndex, Pixels, TokenSequence, concatenate


def encoder_for(processor: ProcessorMixin, max_length: int) -> ChatEncoder:
    """The encoder that fits the processor's family."""
    return (ChatEncoder if chat_form_of(processor).grid else SeparateEncoder)(processor, max_length)


class SeparateEncoder(ChatEncoder):
    """Encodes with any image-text processor that puts the image in place of one placeholder token."""

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        super().__init__(processor, max_length)
        self._tokenizer_lock = threading.Lock()  # any call, even for an image, changes a fast tokenizer's settings

    def pixels(self, image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        """As `ChatEncoder.pixels`; these families fix the number of tokens per image, so images are not made
        smaller."""
        decoded = load_image(image)
        with self._tokenizer_lock:
            prepared = prepare_image(self.processor, decoded)
        (tokens,) = prepared.tokens
        if max_tokens is not None and len(tokens) > max_tokens:
            raise ContextTooLongError(f"the image takes {len(tokens)} tokens, there is room for {max_tokens}")
        return Pixels(prepared.tensors, tokens)

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
        return tensors | pad_and_concatenate(shown)

    def _tokenized(
        self, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
    ) -> tuple[int, ...]:
        with self._tokenizer_lock:
            return super()._tokenized(chat, has_image, add_generation_prompt)
