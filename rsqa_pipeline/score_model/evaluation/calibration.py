"""Calibration of score gaps as Bradley-Terry probabilities, and bias of the scores towards longer texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from rsqa_pipeline.score_model.pairs import Pair

BINS = 10
"""Equal bins of confidence over [0.5, 1]."""


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence falls in one bin."""

    confidence: float
    """Mean of sigmoid(|gap|), 0.5..1."""
    accuracy: float
    """Share in which the text with the higher score was the chosen one."""
    n: int


@dataclass(frozen=True)
class Calibration:
    """Reliability of P(chosen) = sigmoid(score gap)."""

    ece: float | None
    """Expected calibration error, 0..0.5 and best at 0; None without a pair."""
    bins: list[Bin]


def calibration(gaps: Sequence[float]) -> Calibration:
    """Reliability over held-out pairs.

    Args:
        gaps: score of chosen minus score of rejected. The model's confidence in the order it gives is
            sigmoid(|gap|); the order is right if the gap is above 0.
    """
    binned: dict[int, list[tuple[float, bool]]] = {}
    for gap in gaps:
        confidence = 1 / (1 + math.exp(-abs(gap)))
        bin_index = min(BINS - 1, int((confidence - 0.5) * 2 * BINS))
        binned.setdefault(bin_index, []).append((confidence, gap > 0))
    bins = [
        Bin(sum(c for c, _ in members) / len(members), sum(r for _, r in members) / len(members), len(members))
        for _, members in sorted(binned.items())
    ]
    if not bins:
        return Calibration(None, [])
    return Calibration(sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / len(gaps), bins)


def length_bias(pairs: Sequence[Pair], gaps: Sequence[float | None]) -> dict[str, float | None]:
    """Spearman correlation, -1..1, with the gap in length (characters of chosen minus rejected).

    ``score`` is that of the score gap and ``truth`` that of the true margin, over the same pairs where both
    are known. Longer texts may really be better, so the bias is the excess of ``score`` over ``truth``. None where
    undefined.
    """
    known = [(pair, gap) for pair, gap in zip(pairs, gaps, strict=True) if gap is not None]
    with_truth = [(pair, gap) for pair, gap in known if pair["true_margin"] is not None]
    measured = with_truth or known
    lengths = [length_gap(pair) for pair, _ in measured]
    return {
        "score": _spearman(lengths, [gap for _, gap in measured]),
        "truth": _spearman(lengths, [pair["true_margin"] for pair, _ in with_truth]) if with_truth else None,
    }


def length_gap(pair: Pair) -> int:
    """Characters of the chosen text minus those of the rejected one."""
    return len(pair["chosen"]) - len(pair["rejected"])


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b).statistic)
