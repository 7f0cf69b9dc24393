"""Token sequences as the score model reads them: shared tokens first, then each candidate of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CandidateIndex = tuple[int, int]
"""Number of a candidate's group, and of the candidate within it."""


@dataclass(frozen=True)
class Pixels:
    """One image as the vision tower reads it."""

    tensors: dict[str, Tensor]
    """The image processor's output, by the backbone's argument. For Qwen-VL ``pixel_values`` (patches,
    channels * time * height * width), float32, normalized, and ``image_grid_thw`` (1, 3), patches over time, height
    and width."""
    tokens: tuple[int, ...]
    """Tokens that represent the image in the text."""
    downscaled: bool = False
    """Whether it is smaller than the image processor makes it by default."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class TokenSequence:
    """Shared tokens, followed by each candidate's own tokens."""

    tokens: list[int]
    branches: list[int]
    """0 for shared tokens, 1.. for the tokens of each candidate."""
    ends: dict[CandidateIndex, int]
    """Candidate -> index of its last token."""
    pixels: Pixels | None


def concatenate(texts: Mapping[CandidateIndex, list[int]], shared: int, pixels: Pixels | None) -> TokenSequence:
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


def pack(
    texts: Mapping[CandidateIndex, list[int]], pixels: Pixels | None, max_tokens: int | None
) -> Iterator[TokenSequence]:
    """Sequences of at most ``max_tokens`` tokens, or of one candidate; each begins with the tokens that all texts
    share."""
    shared = shared_length(list(texts.values()))
    pending: dict[CandidateIndex, list[int]] = {}
    tokens = shared
    for candidate, text in texts.items():
        own = len(text) - shared
        if pending and max_tokens is not None and tokens + own > max_tokens:
            yield concatenate(pending, shared, pixels)
            pending, tokens = {}, shared
        pending[candidate] = text
        tokens += own
    if pending:
        yield concatenate(pending, shared, pixels)


def shared_length(texts: Sequence[list[int]]) -> int:
    """Number of leading tokens that all texts share: all of a single text, else never a text's last token."""
    if len(texts) == 1:
        return len(texts[0])
    return min(common_prefix_length(min(texts), max(texts)), min(map(len, texts)) - 1)


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that two texts have in common."""
    differing = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def padded(texts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, each (rows, tokens), padded on the right."""
    ids = torch.full((len(texts), max(map(len, texts))), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, text in enumerate(texts):
        ids[index, : len(text)] = torch.tensor(text)
        mask[index, : len(text)] = 1
    return ids, mask
