"""From chats and images to the score model's tensors. Training and scoring share this code.

A row's text is tokenized once, with a single image placeholder. The placeholder is expanded to the image's number of
tokens when the batch is built, so texts can be sorted by length before any image is opened.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.conversation import as_chat, render
from rsqa_pipeline.models.image_inputs import expand
from rsqa_pipeline.models.image_size import image_size, max_image_tokens
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.additions import Kind, kind_of
from rsqa_pipeline.score_model.inputs.sequences import (
    CandidateIndex,
    Pixels,
    TokenSequence,
    common_prefix_length,
    concatenate,
    pack,
    padded,
    shared_length,
)


@dataclass(frozen=True)
class CandidateRow:
    """One candidate: its chat as tokens with one image placeholder, and the image that it shows."""

    tokens: tuple[int, ...]
    image: Hashable | None
    """Key of the image among the batch's `Pixels`; None for text alone."""
    prompt: int = 0
    """Number of leading tokens that come from the context, where known."""
    kind: Kind | None = None
    """Whether the text stands alone or answers a context, where known."""


class ContextTooLongError(ValueError):
    """The image's tokens do not fit the model's context, so no text can be scored."""


class ChatEncoder:
    """Tokenizes chats, prepares images and builds batches."""

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
        self.processor = processor
        self.max_length = max_length
        """Maximum tokens per row, including the image's; a longer text is cut at its end."""

    def tokens(self, context: Sequence[Message], candidate: str, has_image: bool) -> tuple[int, ...]:
        """Tokens of the context followed by the candidate as the assistant's turn."""
        return self._tokenized(as_chat([*context, Message(role="assistant", content=candidate)]), has_image)

    def rows(self, context: Sequence[Message], candidates: Sequence[str], image: Hashable | None) -> list[CandidateRow]:
        """Rows of candidates for one context.

        Raises:
            ValueError: there is an image, but the context has no user turn to put it in.
        """
        has_image = image is not None
        chat = as_chat([*context, Message(role="assistant", content="")])[:-1]
        prompt = self._tokenized(chat, has_image, add_generation_prompt=True)
        texts = [self.tokens(context, candidate, has_image) for candidate in candidates]
        kind = kind_of(context)
        # a tokenizer may join the prompt's last letters with the candidate's first
        return [CandidateRow(text, image, common_prefix_length(prompt, text), kind) for text in texts]

    def pixels(self, image: str | Image.Image, max_tokens: int | None = None) -> Pixels:
        """The image as the image processor prepares it, made smaller where it exceeds ``max_tokens`` tokens, by default
        those of `max_image_tokens`.

        Raises:
            ImageFault: it cannot be opened, or has a shape that the image processor refuses.
            ContextTooLongError: the context leaves it no token.
        """
        decoded, processor = load_image(image), self.processor.image_processor
        limit = max_image_tokens(self.max_length) if max_tokens is None else max_tokens
        if limit < 1:
            raise ContextTooLongError("the context leaves the image no token")
        merged = int(processor.merge_size) ** 2
        try:
            usual = processor.get_number_of_image_patches(decoded.height, decoded.width, {}) // merged
            size = image_size(processor, limit, max(decoded.size) / min(decoded.size))
            prepared = processor(images=[decoded], size=size, return_tensors="pt")
        except ValueError as error:
            raise ImageFault("refused_shape", f"{_name(image)}: {error}") from error
        count = int(prepared["image_grid_thw"].prod()) // merged
        tensors = {name: prepared[name] for name in ("pixel_values", "image_grid_thw")}
        return Pixels(tensors, (self.processor.image_token_id,) * count, downscaled=count < usual)

    def length(self, row: CandidateRow, pixels: Pixels | None) -> int:
        """Tokens of the row with its image, before anything is cut."""
        return len(row.tokens) + (len(pixels.tokens) - 1 if pixels is not None else 0)

    def expand_image_tokens(self, row: CandidateRow, pixels: Pixels | None) -> list[int]:
        """The row's tokens with the placeholder expanded to the image's tokens, cut to ``max_length``.

        Raises:
            ContextTooLongError: the cut would go through the image.
        """
        if pixels is None:
            return list(row.tokens[: self.max_length])
        count = len(pixels.tokens)
        at = row.tokens.index(self.processor.image_token_id)
        if at + count >= self.max_length:
            raise ContextTooLongError(f"the image ends at token {at + count}, the context holds {self.max_length}")
        return expand(self.processor, row.tokens, pixels.tokens)[: self.max_length]

    def sequences(
        self, rows: Mapping[CandidateIndex, CandidateRow], pixels: Pixels | None, max_tokens: int | None = None
    ) -> list[TokenSequence]:
        """Rows that show one image, in as few sequences as is worthwhile; without an image, one sequence per row.

        Args:
            max_tokens: limit for a sequence with several candidates.

        Raises:
            ContextTooLongError: as `expand_image_tokens`.
        """
        texts = {key: self.expand_image_tokens(row, pixels) for key, row in rows.items()}
        if pixels is None:
            return [concatenate({key: text}, len(text), None) for key, text in texts.items()]
        shared = shared_length(list(texts.values()))
        image_is_shared = self.processor.image_token_id not in next(iter(texts.values()))[shared:]
        joint: dict[CandidateIndex, list[int]] = {}
        separate: list[dict[CandidateIndex, list[int]]] = []
        for question, keys in _by_prompt(rows).items():
            own = {key: texts[key] for key in keys}
            question_tokens = len(question) + len(pixels.tokens) - 1 - shared
            if not image_is_shared and not question:
                separate.extend({key: text} for key, text in own.items())
            elif not image_is_shared or (len(own) - 1) * question_tokens > shared:
                separate.append(own)  # repeating the image costs less than repeating the question
            else:
                joint |= own
        parts = [*([joint] if joint else []), *separate]
        return [sequence for part in parts for sequence in pack(part, pixels, max_tokens)]

    def tensors(self, sequences: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; scores come in the order of the sequences' ends.

        An image that several sequences show is included once.
        """
        ids, mask = padded([sequence.tokens for sequence in sequences], self.processor.tokenizer.pad_token_id)
        branches, _ = padded([sequence.branches for sequence in sequences], 0)
        ends = [[index, end] for index, sequence in enumerate(sequences) for end in sequence.ends.values()]
        tensors = {"input_ids": ids, "attention_mask": mask, "ends": torch.tensor(ends)}
        if branches.any():
            tensors["branches"] = branches
        shown = {id(sequence.pixels): sequence.pixels for sequence in sequences if sequence.pixels is not None}
        if shown:
            position = {image: index for index, image in enumerate(shown)}
            images = [pixels.tensors for pixels in shown.values()]
            for name in images[0]:
                tensors[name] = torch.cat([image[name] for image in images])
            tensors["image_of_row"] = torch.tensor([position.get(id(sequence.pixels), -1) for sequence in sequences])
        return tensors

    def batch(self, rows: Sequence[CandidateRow], pixels: Mapping[Hashable, Pixels]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; ``ends`` follows the order of ``rows``.

        Candidates of one image share a sequence, which contains their common tokens and the image once.
        """
        shown: dict[Hashable | None, dict[CandidateIndex, CandidateRow]] = {}
        for index, row in enumerate(rows):
            shown.setdefault(row.image, {})[0, index] = row
        sequences = [
            sequence
            for image, members in shown.items()
            for sequence in self.sequences(members, pixels[image] if image is not None else None)
        ]
        tensors = self.tensors(sequences)
        candidates = (candidate for sequence in sequences for candidate in sequence.ends)
        order = {candidate: position for position, candidate in enumerate(candidates)}
        tensors["ends"] = tensors["ends"][[order[0, index] for index in range(len(rows))]]
        return tensors

    def _tokenized(
        self, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
    ) -> tuple[int, ...]:
        text = render(self.processor, chat, has_image, add_generation_prompt)
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _by_prompt(rows: Mapping[CandidateIndex, CandidateRow]) -> dict[tuple[int, ...], list[CandidateIndex]]:
    found: dict[tuple[int, ...], list[CandidateIndex]] = {}
    for key, row in rows.items():
        found.setdefault(row.tokens[: row.prompt], []).append(key)
    return found


def _name(image: str | Image.Image) -> str:
    return image if isinstance(image, str) else f"an image of {image.width} x {image.height}"


def load_image(image: str | Image.Image) -> Image.Image:
    if isinstance(image, str):
        return open_image(image)
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # raised by Pillow where the underlying file is broken
        raise ImageFault("undecodable", f"{_name(image)}: {error!r}") from error
    return image
