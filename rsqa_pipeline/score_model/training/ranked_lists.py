"""Training examples: rankings of texts for one image and context, best first; most often pairs.

Pairs that share their chosen text and whose rejected texts have judge's marks contain more together than separately:
they rank the whole list, and the Plackett-Luce loss learns from all of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rsqa_pipeline.score_model.inputs.encoder import CandidateRow


@dataclass(frozen=True)
class Ranking:
    """Texts of one image and context, best first, two or more."""

    rows: tuple[CandidateRow, ...]
    mark_gap: float = 0.0
    """Judge's mark of the first minus that of the second, 0..4; 0 where one has no mark."""


@dataclass(frozen=True)
class MarkedPair:
    """A tokenized pair."""

    ranking: Ranking
    rejected_mark: float | None
    """Judge's mean mark of the rejected text, 1..5; None where it was not judged."""


def as_lists(pairs: Sequence[MarkedPair]) -> list[Ranking]:
    """The pairs merged into ranked lists, in the order of each list's first pair.

    A list is a chosen text and the texts rejected for it, ordered by mark. Texts with the same mark have no order, so
    each goes into a different list; a rejected text without a mark stays a pair. So every pair's order is in exactly
    one list, and no order is invented. Pairs with different images never share a row, so they never share a list.

    Example: chosen a (mark 5) against b (3), c (4), d (3), e (no mark) gives a > c > b, a > d, a > e.
    """
    lists: dict[Hashable, list[MarkedPair]] = {}
    for index, pair in enumerate(pairs):
        chosen = pair.ranking.rows[0]
        same_mark = 0
        if pair.rejected_mark is None:
            lists[index] = [pair]
            continue
        while any(other.rejected_mark == pair.rejected_mark for other in lists.get((chosen, same_mark), ())):
            same_mark += 1
        lists.setdefault((chosen, same_mark), []).append(pair)
    return [_merged(members) for members in lists.values()]


def _merged(pairs: Sequence[MarkedPair]) -> Ranking:
    if len(pairs) == 1:
        return pairs[0].ranking
    ordered = sorted(pairs, key=lambda pair: -(pair.rejected_mark or 0.0))
    first = ordered[0].ranking
    return Ranking((first.rows[0], *(pair.ranking.rows[1] for pair in ordered)), first.mark_gap)
