"""Fits a first pass on a sample of the corpus that is scored in full.

One half of the sample fits the regression, the other sets the cut. The cut is a split-conformal bound: of a new row
that is among the best, the prediction lies below the cut with probability `MISS` at most. Kinds are handled apart, as
`rsqa curate --keep` does.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rsqa_pipeline.curated_subsets.scoring.first_pass import Bound, FirstPass, Floats
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.quarantine import printable
from rsqa_pipeline.records import Message, canonical_messages, sha256
from rsqa_pipeline.score_model.additions import KINDS, Kind, kind_of
from rsqa_pipeline.score_model.scoring.first_layers import FirstLayers, exits, flops
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.source_pairs.clean import text_fault
from rsqa_pipeline.source_pairs.source_row import RowFault, SourceRow

MISS = 0.01
"""Probability, at most, that the first pass drops a row that is among the best."""
_CONFIDENCE = 0.95
_PENALTIES = np.logspace(-1, 4, 6)
_FLOP_ROWS = 64
"""Rows of a kind on which the work of both passes is counted."""


def sample_rows(keep: float) -> int:
    """Rows of a kind to draw: enough that the half that sets the cut has more than 1 / MISS of the best."""
    return math.ceil(3 / (MISS * keep))


@dataclass(frozen=True)
class Sample:
    """Random rows of a corpus, one candidate each, and how many rows it has."""

    groups: Mapping[Kind, Sequence[ScoringGroup]]
    rows: Mapping[Kind, int]
    """Rows of each kind in the corpus."""
    hash: str

    @property
    def share(self) -> float:
        """Share of the corpus that was drawn."""
        return sum(map(len, self.groups.values())) / max(1, sum(self.rows.values()))


def draw(rows: Iterable[SourceRow | RowFault], per_kind: int) -> Sample:
    """Draws rows by the hash of their keys: the same rows in any order of the file."""
    heaps: dict[Kind, list[tuple[int, str, ScoringGroup]]] = {kind: [] for kind in KINDS}
    counts = Counter[Kind]()
    for row in rows:
        if isinstance(row, RowFault) or text_fault(row.messages) or row.messages[-1]["role"] != "assistant":
            continue
        *context, last = row.messages
        kind, key = kind_of(context), printable(row.key)
        counts[kind] += 1
        # the largest hash is on top of the heap and leaves it first
        entry = (-int(sha256("first pass", key), 16), key, ScoringGroup(row.image, context, [last["content"]]))
        if len(heaps[kind]) < per_kind:
            heapq.heappush(heaps[kind], entry)
        elif entry[:2] > heaps[kind][0][:2]:
            heapq.heapreplace(heaps[kind], entry)
    ordered = {kind: sorted(heap, key=lambda entry: entry[:2]) for kind, heap in heaps.items()}
    parts = [str(sorted(counts.items()))]
    parts += [
        f"{key} {printable(str(group.image))} {canonical_messages([*group.context, _answer(group)])}"
        for entries in ordered.values()
        for _, key, group in entries
    ]
    groups = {kind: [group for *_, group in entries] for kind, entries in ordered.items()}
    return Sample(groups, counts, sha256(*parts))


def _answer(group: ScoringGroup) -> Message:
    return Message(role="assistant", content=group.candidates[0])


def fit_first_pass(scorer: Scorer, sample: Sample, keep: float) -> FirstPass | None:
    """The first pass that is expected to cost least in all; None if the model has no cheaper part.

    Args:
        keep: share of the best rows of each kind that must not be dropped.
    """
    groups = {kind: list(sample.groups.get(kind, [])) for kind in KINDS}
    scores = {kind: _scores(scorer, groups[kind]) for kind in KINDS}
    measured = [group for kind in KINDS for group in groups[kind][:_FLOP_ROWS]]
    in_full = flops(scorer, measured)
    total = sum(sample.rows.values())
    found: list[FirstPass] = []
    for at in exits(scorer.model):
        part = FirstLayers(scorer, at)
        fitted = {kind: fit_bound(_states(part, groups[kind]), scores[kind], keep) for kind in KINDS}
        remaining = sum(share * sample.rows.get(kind, 0) for kind, (_, share) in fitted.items()) / total
        found.append(
            FirstPass(
                model_version=scorer.version,
                keep=keep,
                sample=sample.hash,
                layers=at.layers,
                image_share=at.image_share,
                sample_share=sample.share,
                cost=flops(part, measured) / in_full,
                remaining=remaining,
                bounds={kind: bound for kind, (bound, _) in fitted.items()},
            )
        )
    return min(found, key=lambda one: one.work, default=None)


def fit_bound(states: Floats, scores: Floats, keep: float) -> tuple[Bound, float]:
    """The bound of one kind, and the share of rows that it is expected to leave.

    The expectation is from the half that fits, by cross-validation, so that the choice among several first passes does
    not use the half that sets the cut.

    Args:
        states: (rows, hidden), NaN in a row that the first layers cannot run; rows in random order.
        scores: (rows,), NaN where missing.
        keep: share of the best rows.
    """
    usable = np.isfinite(scores) & np.isfinite(states).all(axis=1)
    states, scores = states[usable], scores[usable]
    half = len(scores) // 2
    if half * keep < 1 / MISS:  # too few of the best for a bound
        return Bound([0.0] * states.shape[1], 0.0, None), 1.0
    least = threshold(scores[:half], keep)
    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    expected = cross_val_predict(model, states[:half], scores[:half], cv=5)
    model.fit(states[:half], scores[:half])
    scaler, ridge = model[0], model[1]
    weights = ridge.coef_ / scaler.scale_
    bound = Bound(weights.tolist(), float(ridge.intercept_ - weights @ scaler.mean_), None)
    cut = conformal_cut(bound.predict(states[half:])[scores[half:] >= least])
    expected_cut = conformal_cut(expected[scores[:half] >= least])
    remaining = 1.0 if expected_cut is None else float(np.mean(expected >= expected_cut))
    return Bound(bound.weights, bound.intercept, cut), remaining


def threshold(scores: Floats, keep: float) -> float:
    """A score that is at most the least one of the corpus's best share, with probability `_CONFIDENCE`: an order
    statistic of a random sample."""
    rank = int(binom.ppf(1 - _CONFIDENCE, len(scores), 1 - keep))
    return float(np.sort(scores)[max(0, rank - 1)])


def conformal_cut(predictions: Floats) -> float | None:
    """The prediction that a new one of the same kind is below with probability `MISS` at most.

    None if there are too few predictions to say so.
    """
    rank = math.floor(MISS * (len(predictions) + 1) + 1e-9)
    return float(np.sort(predictions)[rank - 1]) if rank >= 1 else None


def _scores(scorer: Scorer, groups: Sequence[ScoringGroup]) -> Floats:
    return np.array([math.nan if value is None else value for (value,) in scorer.score(groups)], dtype=float)


def _states(part: FirstLayers, groups: Sequence[ScoringGroup]) -> Floats:
    states, rows = part.states(groups)
    missing = np.full(part.model.head.in_features, np.nan)
    found = [missing if row is None else states[row] for (row,) in rows]
    return np.array(found).reshape(len(groups), len(missing))
