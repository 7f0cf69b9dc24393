"""Held-out preference accuracy: the share of pairs whose two scores are in the right order (paper, Table 6).

A tie counts as wrong. Accuracy is reported against two labels: the judge's (the chosen text) and, where the truth is
known, the sign of its margin. Pairs that are equally good in truth have no true order and are left out of the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rsqa_pipeline.score_model.pairs import Pair, ScoredPair, agrees
from rsqa_pipeline.statistics import Interval, paired_difference, wilson

ALL = "all"
"""All families together."""
LABELS = ("judge", "truth")

Scored = Mapping[str, Sequence[ScoredPair]]
"""Selector -> scores of each pair, in the pairs' order."""


@dataclass(frozen=True)
class AccuracyRow:
    """One figure of ``accuracy.json``: ``{"selector": "score_model", "family": "caption", "label": "truth",
    "value": 0.94, "low": 0.91, "high": 0.96, "n": 310}``.
    """

    selector: str
    family: str
    label: str
    value: float
    low: float
    high: float
    n: int


def accuracy_rows(pairs: Sequence[Pair], scored: Scored) -> list[AccuracyRow]:
    """Accuracy with Wilson intervals for every selector, family and label that has a pair, plus chance."""
    rows = []
    for label in LABELS:
        for family in [ALL, *sorted({pair["family"] for pair in pairs})]:
            measured = {selector: _verdicts(pairs, scores, family, label) for selector, scores in scored.items()}
            for selector, verdicts in measured.items():
                known = [verdict for verdict in verdicts if verdict is not None]
                if known:
                    interval = wilson(sum(known), len(known))
                    rows.append(AccuracyRow(selector, family, label, **asdict(interval)))
            pairs_with_order = max((sum(v is not None for v in verdicts) for verdicts in measured.values()), default=0)
            if pairs_with_order:
                # Chance is known exactly: both orders are equally likely.
                rows.append(AccuracyRow("random", family, label, 0.5, 0.5, 0.5, pairs_with_order))
    return rows


def difference_rows(
    pairs: Sequence[Pair], scored: Scored, resamples: int, seed: int
) -> list[dict[str, str | float | int]]:
    """Score model's accuracy minus CLIP score's over the pairs that both scored, bootstrapped."""
    rows: list[dict[str, str | float | int]] = []
    for label in LABELS:
        for family in [ALL, *sorted({pair["family"] for pair in pairs})]:
            ours = _verdicts(pairs, scored["score_model"], family, label)
            theirs = _verdicts(pairs, scored["clip_score"], family, label)
            both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
            if both:
                interval = paired_difference([a for a, _ in both], [b for _, b in both], resamples, seed)
                rows.append(
                    {"selector": "score_model", "baseline": "clip_score", "family": family, "label": label}
                    | asdict(interval)
                )
    return rows


def _verdicts(pairs: Sequence[Pair], scores: Sequence[ScoredPair], family: str, label: str) -> list[bool | None]:
    """One verdict per pair of the family, in order; None where there is no score or no order."""
    return [
        agrees(scored, 1.0 if label == "judge" else (pair["true_margin"] or 0.0))
        for pair, scored in zip(pairs, scores, strict=True)
        if family in (ALL, pair["family"])
    ]


def judge_against_truth(pairs: Sequence[Pair]) -> Interval | None:
    """How often the judge chose the truly better text: the ceiling that the judge's noise sets."""
    margins = [pair["true_margin"] for pair in pairs if pair["true_margin"]]
    return wilson(sum(margin > 0 for margin in margins), len(margins)) if margins else None
