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
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.images import open_image
from rsqa_pipeline.models.conversation import as_chat, render
from rsqa_pipeline.records import Message


@dataclass(frozen=True)
class Pixels:
    """One image as the vision tower reads it."""

    tensors: dict[str, Tensor]
    """What the image processor gives for it, by the backbone's argument. For Qwen-VL ``pixel_values`` (patches,
    channels * time * height * width), float32, normalized, and ``image_grid_thw`` (1, 3), patches over time, height
    and width."""
    tokens: tuple[int, ...]
    """What stands in the text for it."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


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

    def __init__(self, processor: ProcessorMixin, max_length: int) -> None:
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
        merged = int(self.processor.image_processor.merge_size) ** 2
        count = int(seen["image_grid_thw"].prod()) // merged
        tensors = {name: seen[name] for name in ("pixel_values", "image_grid_thw")}
        return Pixels(tensors, (self.processor.image_token_id,) * count)

    def length(self, row: Row, pixels: Pixels | None) -> int:
        """Tokens of the row with its image, before anything is cut."""
        return len(row.tokens) + (len(pixels.tokens) - 1 if pixels is not None else 0)

    def widen(self, row: Row, pixels: Pixels | None) -> list[int]:
        """The row's tokens with its image's own number of placeholders, cut to ``max_length``.

        Raises:
            ContextTooLongError: the cut would go through the image.
        """
        if pixels is None:
            return list(row.tokens[: self.max_length])
        count = len(pixels.tokens)
        at = row.tokens.index(self.processor.image_token_id)
        if at + count >= self.max_length:
            raise ContextTooLongError(f"the image ends at token {at + count}, the context holds {self.max_length}")
        widened = [*row.tokens[:at], *pixels.tokens, *row.tokens[at + 1 :]]
        return widened[: self.max_length]

    def batch(self, rows: Sequence[Row], pixels: Mapping[Hashable, Pixels]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; ``ends`` follows the order of ``rows``.

        Candidates of one image share a sequence: what they have in common stands in it once, and so does the image.
        """
        texts = [self.widen(row, pixels[row.image] if row.image is not None else None) for row in rows]
        sequences = self._sequences(rows, texts)
        keys = list(dict.fromkeys(row.image for row in rows if row.image is not None))
        width = max(len(sequence.tokens) for sequence in sequences)
        ids, mask = padded([sequence.tokens for sequence in sequences], self.processor.tokenizer.pad_token_id)
        branches = torch.zeros(len(sequences), width, dtype=torch.int64)
        ends = torch.zeros(len(rows), 2, dtype=torch.int64)
        for index, sequence in enumerate(sequences):
            branches[index, : len(sequence.branches)] = torch.tensor(sequence.branches)
            for row, end in sequence.ends.items():
                ends[row] = torch.tensor([index, end])
        tensors = {"input_ids": ids, "attention_mask": mask, "ends": ends}
        if branches.any():
            tensors["branches"] = branches
        if keys:
            place = {key: index for index, key in enumerate(keys)}
            for name in pixels[keys[0]].tensors:
                tensors[name] = torch.cat([pixels[key].tensors[name] for key in keys])
            shown = [-1 if sequence.image is None else place[sequence.image] for sequence in sequences]
            tensors["image_of_row"] = torch.tensor(shown)
        return tensors

    def _sequences(self, rows: Sequence[Row], texts: Sequence[list[int]]) -> list[_Sequence]:
        """One sequence for all candidates of an image, one for each candidate without image."""
        together: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            together.setdefault((index, None) if row.image is None else (None, row.image), []).append(index)
        sequences: list[_Sequence] = []
        for members in together.values():
            shared = _common([texts[index] for index in members])
            image = rows[members[0]].image
            if image is not None and self.processor.image_token_id in texts[members[0]][shared:]:
                # The texts part before the image (another system turn, say), so they cannot share it.
                sequences.extend(_sequence({index: texts[index]}, len(texts[index]), image) for index in members)
            else:
                sequences.append(_sequence({index: texts[index] for index in members}, shared, image))
        return sequences


def padded(texts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, each (rows, tokens), padded on the right."""
    ids = torch.full((len(texts), max(map(len, texts))), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, text in enumerate(texts):
        ids[index, : len(text)] = torch.tensor(text)
        mask[index, : len(text)] = 1
    return ids, mask


@dataclass(frozen=True)
class _Sequence:
    """Candidates laid out one after another behind what they share."""

    tokens: list[int]
    branches: list[int]
    """0 for shared tokens, 1.. for the tokens of each candidate."""
    ends: dict[int, int]
    """Row -> place of its last token."""
    image: Hashable | None


def _sequence(texts: Mapping[int, list[int]], shared: int, image: Hashable | None) -> _Sequence:
    first = next(iter(texts.values()))
    tokens, branches, ends = first[:shared], [0] * shared, {}
    for branch, (row, text) in enumerate(texts.items(), start=1):
        tokens = tokens + text[shared:]
        branches = branches + [branch] * (len(text) - shared)
        ends[row] = len(tokens) - 1
    return _Sequence(tokens, branches, ends, image)


def _common(texts: Sequence[list[int]]) -> int:
    """Leading tokens that all texts have in common; a lone text shares all of it, others keep their last token."""
    if len(texts) == 1:
        return len(texts[0])
    longest = min(map(len, texts)) - 1
    for place in range(longest):
        if len({text[place] for text in texts}) > 1:
            return place
    return longest
