"""Batches by a budget of tokens, of sequences of about one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rsqa_pipeline.score_model.inputs.sequences import TokenSequence

WINDOW = 3
"""Batches' worth of sequences that are sorted by length among themselves."""

Together = list[TokenSequence]
"""Sequences that show one image, which is encoded once if they are in one batch."""


def in_batches(arriving: Iterable[Together], batch_tokens: int) -> Iterator[list[TokenSequence]]:
    """Batches whose rows times the longest one's tokens are at most ``batch_tokens``, unless one row alone has more.

    They depend on the order of ``arriving`` alone. What shows one image is torn apart only where it is too much for a
    batch.
    """
    window: list[Together] = []
    held = 0
    for together in arriving:
        window.extend(_pieces(together, batch_tokens))
        held += _tokens(together)
        if held >= WINDOW * batch_tokens:
            *full, window = _filled(window, batch_tokens)
            held = sum(map(_tokens, window))  # a batch that is not full yet waits for more
            yield from map(_flat, full)
    if window:
        yield from map(_flat, _filled(window, batch_tokens))


def _filled(window: Sequence[Together], batch_tokens: int) -> list[list[Together]]:
    batches: list[list[Together]] = [[]]
    for together in sorted(window, key=_width):
        rows = sum(map(len, batches[-1])) + len(together)
        if batches[-1] and rows * _width(together) > batch_tokens:  # sorted, so it is the widest so far
            batches.append([])
        batches[-1].append(together)
    return batches


def _pieces(together: Together, batch_tokens: int) -> Iterator[Together]:
    """The sequences, or parts of them that each fit a batch."""
    piece: Together = []
    width = 0
    for sequence in together:
        width = max(width, len(sequence.tokens))
        if piece and (len(piece) + 1) * width > batch_tokens:
            yield piece
            piece, width = [], len(sequence.tokens)
        piece.append(sequence)
    if piece:
        yield piece


def _width(together: Together) -> int:
    return max(len(sequence.tokens) for sequence in together)


def _tokens(together: Together) -> int:
    return sum(len(sequence.tokens) for sequence in together)


def _flat(batch: Sequence[Together]) -> list[TokenSequence]:
    return [sequence for together in batch for sequence in together]
