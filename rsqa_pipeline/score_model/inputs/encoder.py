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

from rsqa_pipeline.images.decode import ImageFault, open_image
from rsqa_pipeline.models.conversation import as_chat, render
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.inputs.sequences import (
    Pixels,
    Place,
    TokenSequence,
    common,
    common_prefix,
    one_behind_another,
    pack,
    padded,
)


@dataclass(frozen=True)
class Row:
    """One candidate: its chat as tokens with one image placeholder, and which image it shows."""

    tokens: tuple[int, ...]
    image: Hashable | None
    """Key of the image among the batch's `Pixels`; None for text alone."""
    prompt: int = 0
    """Leading tokens that come from the context, where that is known."""


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
        return self._tokenized(as_chat([*context, Message(role="assistant", content=candidate)]), has_image)

    def rows(self, context: Sequence[Message], candidates: Sequence[str], image: Hashable | None) -> list[Row]:
        """Rows of candidates for one context.

        Raises:
            ValueError: an image, and a context without a user's turn to put it in.
        """
        has_image = image is not None
        chat = as_chat([*context, Message(role="assistant", content="")])[:-1]
        prompt = self._tokenized(chat, has_image, add_generation_prompt=True)
        texts = [self.tokens(context, candidate, has_image) for candidate in candidates]
        # a tokenizer may join the prompt's last letters with the candidate's first
        return [Row(text, image, common_prefix(prompt, text)) for text in texts]

    def pixels(self, image: str | Image.Image, most: int | None = None) -> Pixels:
        """The image as the image processor prepares it, or smaller, so that it takes at most ``most`` tokens.

        Raises:
            ImageFault: it cannot be opened, or has a shape that the image processor refuses.
            ContextTooLongError: it cannot be made that small.
        """
        decoded, processor = opened(image), self.processor.image_processor
        size = {name: int(processor.size[name]) for name in ("shortest_edge", "longest_edge")}
        if most is not None:
            if most < 1:
                raise ContextTooLongError("the context leaves the image no token")
            area = most * (int(processor.merge_size) * int(processor.patch_size)) ** 2
            size = {name: min(pixels, area) for name, pixels in size.items()}
        merged = int(processor.merge_size) ** 2
        try:
            usual = processor.get_number_of_image_patches(decoded.height, decoded.width, {}) // merged
            seen = processor(images=[decoded], size=size, return_tensors="pt")
        except ValueError as error:
            raise ImageFault("refused_shape", f"{_name(image)}: {error}") from error
        count = int(seen["image_grid_thw"].prod()) // merged
        if most is not None and count > most:
            raise ContextTooLongError(f"the image takes {count} tokens at least, there is room for {most}")
        tensors = {name: seen[name] for name in ("pixel_values", "image_grid_thw")}
        return Pixels(tensors, (self.processor.image_token_id,) * count, downscaled=count < usual)

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

    def sequences(
        self, rows: Mapping[Place, Row], pixels: Pixels | None, most: int | None = None
    ) -> list[TokenSequence]:
        """Rows that show one image, in as few sequences as pay; without an image, one each.

        Args:
            most: tokens of a sequence at most, if it has several candidates.

        Raises:
            ContextTooLongError: as `widen`.
        """
        texts = {key: self.widen(row, pixels) for key, row in rows.items()}
        if pixels is None:
            return [one_behind_another({key: text}, len(text), None) for key, text in texts.items()]
        shared = common(list(texts.values()))
        image_is_shared = self.processor.image_token_id not in next(iter(texts.values()))[shared:]
        together: dict[Place, list[int]] = {}
        apart: list[dict[Place, list[int]]] = []
        for question, keys in _by_prompt(rows).items():
            own = {key: texts[key] for key in keys}
            asked = len(question) + len(pixels.tokens) - 1 - shared
            if not image_is_shared and not question:
                apart.extend({key: text} for key, text in own.items())
            elif not image_is_shared or (len(own) - 1) * asked > shared:
                apart.append(own)  # to repeat the image costs less than to repeat the question
            else:
                together |= own
        parts = [*([together] if together else []), *apart]
        return [sequence for part in parts for sequence in pack(part, pixels, most)]

    def tensors(self, sequences: Sequence[TokenSequence]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; scores come in the order of the sequences' ends.

        An image that several sequences show goes in once.
        """
        ids, mask = padded([sequence.tokens for sequence in sequences], self.processor.tokenizer.pad_token_id)
        branches, _ = padded([sequence.branches for sequence in sequences], 0)
        ends = [[index, end] for index, sequence in enumerate(sequences) for end in sequence.ends.values()]
        tensors = {"input_ids": ids, "attention_mask": mask, "ends": torch.tensor(ends)}
        if branches.any():
            tensors["branches"] = branches
        shown = {id(sequence.pixels): sequence.pixels for sequence in sequences if sequence.pixels is not None}
        if shown:
            place = {image: index for index, image in enumerate(shown)}
            images = [pixels.tensors for pixels in shown.values()]
            for name in images[0]:
                tensors[name] = torch.cat([image[name] for image in images])
            tensors["image_of_row"] = torch.tensor([place.get(id(sequence.pixels), -1) for sequence in sequences])
        return tensors

    def batch(self, rows: Sequence[Row], pixels: Mapping[Hashable, Pixels]) -> dict[str, Tensor]:
        """Arguments of `ScoreModel.forward`, padded on the right; ``ends`` follows the order of ``rows``.

        Candidates of one image share a sequence: what they have in common stands in it once, and so does the image.
        """
        shown: dict[Hashable | None, dict[Place, Row]] = {}
        for index, row in enumerate(rows):
            shown.setdefault(row.image, {})[0, index] = row
        sequences = [
            sequence
            for image, members in shown.items()
            for sequence in self.sequences(members, pixels[image] if image is not None else None)
        ]
        tensors = self.tensors(sequences)
        order = {place: at for at, place in enumerate(place for sequence in sequences for place in sequence.ends)}
        tensors["ends"] = tensors["ends"][[order[0, index] for index in range(len(rows))]]
        return tensors

    def _tokenized(
        self, chat: Sequence[Message], has_image: bool, add_generation_prompt: bool = False
    ) -> tuple[int, ...]:
        text = render(self.processor, chat, has_image, add_generation_prompt)
        return tuple(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _by_prompt(rows: Mapping[Place, Row]) -> dict[tuple[int, ...], list[Place]]:
    found: dict[tuple[int, ...], list[Place]] = {}
    for key, row in rows.items():
        found.setdefault(row.tokens[: row.prompt], []).append(key)
    return found


def _name(image: str | Image.Image) -> str:
    return image if isinstance(image, str) else f"an image of {image.width} x {image.height}"


def opened(image: str | Image.Image) -> Image.Image:
    if isinstance(image, str):
        return open_image(image)
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises where the file behind it is broken
        raise ImageFault("undecodable", f"{_name(image)}: {error!r}") from error
    return image
