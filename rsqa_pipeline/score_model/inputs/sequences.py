"""Token sequences as the score model reads them: candidates of an image one after another behind what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Place = tuple[int, int]
"""Which candidate: the number of its group, and its own in it."""


@dataclass(frozen=True)
class Pixels:
    """One image as the vision tower reads it."""

    tensors: dict[str, Tensor]
    """What the image processor gives for it, by the backbone's argument. For Qwen-VL ``pixel_values`` (patches,
    channels * time * height * width), float32, normalized, and ``image_grid_thw`` (1, 3), patches over time, height
    and width."""
    tokens: tuple[int, ...]
    """What stands in the text for it."""
    downscaled: bool = False
    """Whether it was made smaller than the image processor would have made it."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class TokenSequence:
    """Candidates laid out one after another behind what they share."""

    tokens: list[int]
    branches: list[int]
    """0 for shared tokens, 1.. for the tokens of each candidate."""
    ends: dict[Place, int]
    """Candidate -> place of its last token."""
    pixels: Pixels | None


def one_behind_another(texts: Mapping[Place, list[int]], shared: int, pixels: Pixels | None) -> TokenSequence:
    """A sequence of candidates whose first ``shared`` tokens are the same."""
    first = next(iter(texts.values()))
    if len(texts) == 1:
        shared = len(first)
    tokens, branches, ends = first[:shared], [0] * shared, {}
    for branch, (candidate, text) in enumerate(texts.items(), start=1):
        tokens += text[shared:]
        branches += [branch] * (len(text) - shared)
        ends[candidate] = len(tokens) - 1
    return TokenSequence(tokens, branches, ends, pixels)


def pack(texts: Mapping[Place, list[int]], pixels: Pixels | None, most: int | None) -> Iterator[TokenSequence]:
    """Sequences of at most ``most`` tokens, or of one candidate; each begins with what all texts share."""
    shared = common(list(texts.values()))
    waiting: dict[Place, list[int]] = {}
    tokens = shared
    for candidate, text in texts.items():
        own = len(text) - shared
        if waiting and most is not None and tokens + own > most:
            yield one_behind_another(waiting, shared, pixels)
            waiting, tokens = {}, shared
        waiting[candidate] = text
        tokens += own
    if waiting:
        yield one_behind_another(waiting, shared, pixels)


def common(texts: Sequence[list[int]]) -> int:
    """Leading tokens that all texts have in common; a lone text shares all of it, others keep their last token."""
    if len(texts) == 1:
        return len(texts[0])
    return min(common_prefix(min(texts), max(texts)), min(map(len, texts)) - 1)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Leading tokens that two texts have in common."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def padded(texts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, each (rows, tokens), padded on the right."""
    ids = torch.full((len(texts), max(map(len, texts))), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, text in enumerate(texts):
        ids[index, : len(text)] = torch.tensor(text)
        mask[index, : len(text)] = 1
    return ids, mask
