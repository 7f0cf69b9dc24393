"""Preference pairs as the scorers read them, and how often a scorer agrees with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.records import canonical_messages, read_table

T = TypeVar("T")
Pair = Mapping[str, Any]
"""A row of PREFERENCE_PAIR."""
ScoredPair = tuple[float | None, float | None]
"""Scores of chosen and rejected."""


class GroupScorer(Protocol):
    """Interface of every scorer: the score model's and CLIP's."""

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]: ...


class FullScorer(Protocol):
    """A scorer that gives reasons, notes, spreads and lengths."""

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]: ...


def read_pairs(folder: Path, split: str) -> list[dict[str, Any]]:
    """Pairs of a preference asset's folder in ``split`` ("train" or "heldout"), in the table's order.

    Raises:
        DataError: there is no such table.
    """
    file = folder / "pairs.parquet"
    if not file.is_file():
        raise DataError(f"no {file}; materialize the asset {folder.name} first")
    return [pair for pair in read_table(file) if pair["split"] == split]


def score_pairs(scorer: GroupScorer, pairs: Sequence[Pair]) -> list[ScoredPair]:
    """Scores of each pair's two texts. A text shared by pairs of one image and context is scored once."""
    return _by_pair(scorer.score, pairs)


def score_pairs_in_full(scorer: FullScorer, pairs: Sequence[Pair]) -> list[tuple[Score, Score]]:
    """As `score_pairs`, with all that the scorer knows about each text."""
    return _by_pair(scorer.score_or_reason, pairs)


def _by_pair(score: Callable[[Sequence[ScoringGroup]], list[list[T]]], pairs: Sequence[Pair]) -> list[tuple[T, T]]:
    members: dict[tuple[str | None, str], dict[str, int]] = {}
    keys = [(pair["image"], canonical_messages(pair["context"])) for pair in pairs]
    contexts = {}
    for pair, key in zip(pairs, keys, strict=True):
        contexts[key] = pair["context"]
        texts = members.setdefault(key, {})
        for text in (pair["chosen"], pair["rejected"]):
            texts.setdefault(text, len(texts))
    groups = [ScoringGroup(key[0], contexts[key], list(texts)) for key, texts in members.items()]
    scores = dict(zip(members, score(groups), strict=True))
    return [
        (scores[key][members[key][pair["chosen"]]], scores[key][members[key][pair["rejected"]]])
        for pair, key in zip(pairs, keys, strict=True)
    ]


def agrees(scored: ScoredPair, margin: float = 1.0) -> bool | None:
    """Whether the scores order the pair as ``margin`` does (above 0: chosen is better).

    A tie counts as wrong, since the scorer did not prefer the better text. None where a score or the order itself
    is missing.
    """
    chosen, rejected = scored
    if chosen is None or rejected is None or margin == 0:
        return None
    return (chosen - rejected) * margin > 0


def accuracy(verdicts: Sequence[bool | None]) -> float | None:
    """Share of correct verdicts, ignoring missing ones; None without any verdict."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return sum(known) / len(known) if known else None
