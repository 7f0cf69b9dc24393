"""Batches within a token budget, made of sequences of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rsqa_pipeline.score_model.inputs.sequences import TokenSequence

WINDOW = 3
"""Number of batches' worth of sequences that are sorted by length together."""

ImageSequences = list[TokenSequence]
"""Sequences that show one image. The image is encoded once if they are in one batch."""


def in_batches(arriving: Iterable[ImageSequences], batch_tokens: int) -> Iterator[list[TokenSequence]]:
    """Batches whose number of rows times longest row is at most ``batch_tokens``, unless a single row exceeds it.

    They depend only on the order of ``arriving``. Sequences of one image are split only where they do not fit one
    batch.
    """
    window: list[ImageSequences] = []
    window_tokens = 0
    for sequences in arriving:
        window.extend(_pieces(sequences, batch_tokens))
        window_tokens += _tokens(sequences)
        if window_tokens >= WINDOW * batch_tokens:
            *full, window = _fill_batches(window, batch_tokens)
            window_tokens = sum(map(_tokens, window))  # the last batch is not full yet and stays in the window
            yield from map(_flatten, full)
    if window:
        yield from map(_flatten, _fill_batches(window, batch_tokens))


def _fill_batches(window: Sequence[ImageSequences], batch_tokens: int) -> list[list[ImageSequences]]:
    batches: list[list[ImageSequences]] = [[]]
    for sequences in sorted(window, key=_width):
        rows = sum(map(len, batches[-1])) + len(sequences)
        if batches[-1] and rows * _width(sequences) > batch_tokens:  # sorted by width, so this is the widest so far
            batches.append([])
        batches[-1].append(sequences)
    return batches


def _pieces(sequences: ImageSequences, batch_tokens: int) -> Iterator[ImageSequences]:
    """The sequences, split into parts that each fit a batch."""
    piece: ImageSequences = []
    width = 0
    for sequence in sequences:
        width = max(width, len(sequence.tokens))
        if piece and (len(piece) + 1) * width > batch_tokens:
            yield piece
            piece, width = [], len(sequence.tokens)
        piece.append(sequence)
    if piece:
        yield piece


def _width(sequences: ImageSequences) -> int:
    return max(len(sequence.tokens) for sequence in sequences)


def _tokens(sequences: ImageSequences) -> int:
    return sum(len(sequence.tokens) for sequence in sequences)


def _flatten(batch: Sequence[ImageSequences]) -> list[TokenSequence]:
    return [sequence for sequences in batch for sequence in sequences]
