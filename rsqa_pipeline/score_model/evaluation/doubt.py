"""How far to trust a single score: intervals of the judge's mark, and dependence on the length of the text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rsqa_pipeline.models.scoring_group import Score
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.score_model.additions import KINDS, Kind, kind_of
from rsqa_pipeline.score_model.evaluation import evaluation_plots
from rsqa_pipeline.score_model.evaluation.mark_intervals import mark_intervals, write_mark_intervals
from rsqa_pipeline.score_model.length_correction import graded_texts, length_correlation, without_correction
from rsqa_pipeline.score_model.pairs import Pair, accuracy, agrees, score_pairs_in_full
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import Interval

MAX_FITTED_PAIRS = 1000
"""Training pairs per kind of text whose texts are scored for the curve from score to mark."""

Scores = Sequence[tuple[Score, Score]]


@dataclass(frozen=True)
class LengthRow:
    """One row of ``length.json``: ``{"kind": "caption", "correlation": {"value": 0.02, ..}, "slope": 0.43,
    "uncorrected": {"value": 0.2, ..}, "accuracy": 0.908, "uncorrected_accuracy": 0.908, "pairs": 1689}``.
    """

    kind: Kind
    correlation: Interval | None
    """Rank correlation of score and length at equal quality; None where undefined."""
    slope: float | None
    """Slope of the model's correction; None if it has none, as are the next two."""
    uncorrected: Interval | None
    uncorrected_accuracy: float | None
    accuracy: float | None
    """Share of held-out pairs in the judge's order."""
    pairs: int


def write_doubt(
    out: Path, scorer: Scorer, heldout: Sequence[Pair], scores: Scores, train: Sequence[Pair], resamples: int, seed: int
) -> Metrics:
    """Writes ``mark_intervals.json``, ``length.json`` and ``plots/mark_intervals.png``.

    Args:
        scores: of the held-out pairs, in their order.
        train: pairs to fit the curve from score to mark on; `MAX_FITTED_PAIRS` per kind are drawn and scored.
    """
    fitted = _drawn(train, seed)
    trained_on, held_out = graded_texts(fitted, score_pairs_in_full(scorer, fitted)), graded_texts(heldout, scores)
    found = [one for kind in KINDS if (one := mark_intervals(trained_on, held_out, kind, seed)) is not None]
    write_mark_intervals(out, found)
    evaluation_plots.mark_curves(found, held_out, out / "plots")
    rows = length_rows(scorer, heldout, scores, resamples, seed)
    text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    (out / "length.json").write_text(text, encoding="utf-8")
    metrics: Metrics = {}
    for one in found:
        metrics[f"interval_coverage.{one.kind}"] = one.coverage.mean
        metrics[f"interval_width.{one.kind}"] = one.coverage.width
    for row in rows:
        if row.correlation is not None:
            metrics[f"length_correlation.{row.kind}"] = row.correlation.value
    spreads = [one.spread for pair in scores for one in pair if one.spread is not None]
    return metrics | ({"mean_spread": float(np.mean(spreads))} if spreads else {})


def length_rows(scorer: Scorer, pairs: Sequence[Pair], scores: Scores, resamples: int, seed: int) -> list[LengthRow]:
    """One row per kind that has pairs; if the model corrects for length, also what held before the correction."""
    additions = scorer.model.additions
    slopes = dict(additions.length_slopes)
    texts = graded_texts(pairs, scores)
    rows = []
    for kind in KINDS:
        members = [scored for pair, scored in zip(pairs, scores, strict=True) if kind_of(pair["context"]) == kind]
        if not members:
            continue
        of_kind = [text for text in texts if text.kind == kind]
        before = without_correction(of_kind, slopes) if slopes else None
        rows.append(
            LengthRow(
                kind,
                length_correlation(of_kind, resamples, seed),
                slopes.get(kind),
                length_correlation(before, resamples, seed) if before is not None else None,
                _accuracy([(_raw(a, kind, scorer), _raw(b, kind, scorer)) for a, b in members]) if slopes else None,
                _accuracy([(a.value, b.value) for a, b in members]),
                len(members),
            )
        )
    return rows


def _raw(score: Score, kind: Kind, scorer: Scorer) -> float | None:
    if score.value is None or score.tokens is None:
        return None
    return score.value + scorer.model.additions.length_correction(kind, score.tokens)


def _accuracy(scored: Sequence[tuple[float | None, float | None]]) -> float | None:
    return accuracy([agrees(pair) for pair in scored])


def _drawn(train: Sequence[Pair], seed: int) -> list[Pair]:
    """Pairs with marks, at most `MAX_FITTED_PAIRS` per kind, drawn by the seed."""
    drawn: list[Pair] = []
    for kind in KINDS:
        marked = [pair for pair in train if kind_of(pair["context"]) == kind and pair["chosen_mark"] is not None]
        order = np.random.default_rng(seed).permutation(len(marked))[:MAX_FITTED_PAIRS]
        drawn += [marked[index] for index in sorted(order.tolist())]
    return drawn
