"""Does the score prefer long texts? Rank correlation of score and length at equal quality, and a correction.

Equal quality: texts of one family whose marks by the judge fall in the same quarter of a point, or right answers to the
same question. Scores and lengths are ranked within each such stratum, so that neither the quality nor its own relation
to length counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsqa_pipeline.models.scoring_group import Score
from rsqa_pipeline.records import canonical_messages
from rsqa_pipeline.score_model.additions import Kind, kind_of, length_term
from rsqa_pipeline.score_model.pairs import Pair
from rsqa_pipeline.statistics import CONFIDENCE, Interval

MARK_STEP = 0.25
"""Width of a stratum in points of the judge's mean mark, 1..5; the marks' noise is larger than that."""
HALVINGS = 40
"""Bisection steps of a slope."""


@dataclass(frozen=True)
class GradedText:
    """A text with its score and what is known of its quality."""

    kind: Kind
    image: str
    """Image that the text is about; texts of one image are resampled together."""
    stratum: str
    """Texts of one stratum are equally good."""
    mark: float | None
    """Judge's mean mark, 1..5; None where no judge marked it."""
    score: float
    tokens: int


def graded_texts(pairs: Sequence[Pair], scores: Sequence[tuple[Score, Score]]) -> list[GradedText]:
    """The distinct texts of the pairs whose quality is known, in the pairs' order.

    A text without a score is left out; so is a rejected text without a mark, of which only its being worse is known.
    """
    texts: dict[tuple[str | None, str, str], GradedText] = {}
    for pair, scored in zip(pairs, scores, strict=True):
        context = canonical_messages(pair["context"])
        for side, score in zip(("chosen", "rejected"), scored, strict=True):
            mark = pair[f"{side}_mark"]
            if score.value is None or score.tokens is None or (mark is None and side == "rejected"):
                continue
            stratum = f"right {context}" if mark is None else f"{pair['family']} {math.floor(mark / MARK_STEP)}"
            text = GradedText(
                kind_of(pair["context"]), pair["image_id"] or "", stratum, mark, score.value, score.tokens
            )
            texts.setdefault((pair["image_id"], context, pair[side]), text)
    return list(texts.values())


def length_correlation(texts: Sequence[GradedText], resamples: int, seed: int) -> Interval | None:
    """Spearman correlation, -1..1, of score and number of tokens within strata, over all strata.

    The interval is a bootstrap over images; ranks are those of all texts. None if it is undefined: no stratum has texts
    of different score and length.
    """
    if not texts:
        return None
    frame = pd.DataFrame(texts)
    sums = pd.DataFrame(_products(frame, frame["score"])).groupby(frame["image"]).sum().to_numpy()
    value = _correlation(sums.sum(axis=0))
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    drawn = (_correlation(sums[rng.integers(0, len(sums), len(sums))].sum(axis=0)) for _ in range(resamples))
    found = [one for one in drawn if one is not None] or [value]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), len(texts))


def length_slope(texts: Sequence[GradedText]) -> float:
    """The slope b for which score - b * `length_term` has no rank correlation with length within strata.

    The correlation falls as b grows, so it is found by bisection; 0 if the correlation is undefined.
    """
    if length_correlation(texts, 0, 0) is None:
        return 0.0
    frame = pd.DataFrame(texts)
    terms = frame["tokens"].map(length_term)

    def covariance(slope: float) -> float:
        return float(_products(frame, frame["score"] - slope * terms)["both"].sum())

    bound = 1.0
    while covariance(bound) > 0 or covariance(-bound) < 0:
        bound *= 2
    low, high = -bound, bound
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if covariance(middle) > 0 else (low, middle)
    return (low + high) / 2


def without_correction(texts: Sequence[GradedText], slopes: dict[Kind, float]) -> list[GradedText]:
    """The texts with the scores that they had before the correction by these slopes."""
    return [replace(text, score=text.score + slopes[text.kind] * length_term(text.tokens)) for text in texts]


def _products(frame: pd.DataFrame, scores: pd.Series) -> dict[str, npt.NDArray[np.float64]]:
    """Products of each text's ranks of score and length, centred and scaled to +-0.5 within its stratum."""
    strata = frame["stratum"]
    ranks = [values.groupby(strata).rank(pct=True) for values in (scores, frame["tokens"])]
    score, length = ((rank - rank.groupby(strata).transform("mean")).to_numpy() for rank in ranks)
    return {"both": score * length, "score": score * score, "length": length * length}


def _correlation(sums: npt.NDArray[np.float64]) -> float | None:
    both, score, length = sums
    return float(both / math.sqrt(score * length)) if min(score, length) > 1e-12 else None
