"""How well does a score tell the judge's mark of a single text? Split-conformal intervals, in points of the mark.

What is covered: the mean mark, 1..5, that the judge of the preference data gives a text of this kind. The interval is
``mark curve(score) +- quantile * typical error(score)``, cut at 1 and 5. Curve and typical error are fitted on training
pairs; the quantile is that of the held-out texts' errors (Vovk et al., 2005; Papadopoulos et al., 2002).

What it guarantees: for texts like the held-out ones (writers, images, judge), about 90 % of the intervals hold the
mark. Texts of one image are not independent, so the guarantee is exact only with one text per image, and close to it
with many images; coverage is therefore measured with calibration and test images apart. It does not hold for texts by
other writers, nor separately for each score or class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsqa_pipeline.score_model.additions import KINDS, Kind
from rsqa_pipeline.score_model.length_correction import GradedText

Floats = npt.NDArray[np.float64]

LEVEL = 0.9
SPLITS = 20
"""Random halves of the held-out images in which coverage is measured."""
MIN_IMAGES = 20
"""Held-out images with marked texts; with fewer, one half is too small for a quantile of 90 %."""
MIN_FITTED = 40
"""Marked training texts."""
KNOTS = 10
LOWEST_MARK, HIGHEST_MARK = 1.0, 5.0
SMALLEST_ERROR = 0.01
FILE = "mark_intervals.json"


@dataclass(frozen=True)
class MarkCurve:
    """Expected mark and its typical error over the score, linear between knots."""

    scores: list[float]
    """Mean scores of equally large groups of texts, ascending."""
    marks: list[float]
    """Mean mark of each group, made not to fall."""
    errors: list[float]
    """Mean absolute error of the marks in each group, in points."""

    @classmethod
    def fit(cls, texts: Sequence[GradedText]) -> MarkCurve:
        """The curve through texts with marks, at least one."""
        scores, marks = _scores(texts), _marks(texts)
        groups = np.array_split(np.argsort(scores, kind="stable"), min(KNOTS, len(texts)))
        knots = [float(scores[group].mean()) for group in groups]
        levels = np.maximum.accumulate([marks[group].mean() for group in groups])
        off = np.abs(marks - np.interp(scores, knots, levels))
        errors = [max(SMALLEST_ERROR, float(off[group].mean())) for group in groups]
        return cls(knots, levels.tolist(), errors)

    def mark(self, scores: Floats) -> Floats:
        return np.interp(scores, self.scores, self.marks)

    def error(self, scores: Floats) -> Floats:
        return np.interp(scores, self.scores, self.errors)


@dataclass(frozen=True)
class Coverage:
    """Share of the intervals that hold the mark, over random splits of the held-out images in halves."""

    mean: float
    deviation: float
    lowest: float
    highest: float
    width: float
    """Mean width of the intervals, in points."""
    splits: int


@dataclass(frozen=True)
class MarkIntervals:
    """Intervals of one kind of text, calibrated on all held-out texts of the kind."""

    kind: Kind
    curve: MarkCurve
    quantile: float
    """Half width of an interval in typical errors."""
    level: float
    texts: int
    """Held-out texts."""
    images: int
    coverage: Coverage

    def interval(self, score: float | None) -> tuple[float, float] | None:
        """Bounds of the mark of a text with this score; None for a missing score."""
        if score is None:
            return None
        low, high = _bounds(self.curve, self.quantile, np.array([score]))
        return float(low[0]), float(high[0])


def conformal_quantile(errors: Floats, level: float) -> float:
    """The ceil((n + 1) * level)-th smallest error: a new one is at most that with probability ``level`` or more.

    Infinite if n is too small for the level.
    """
    rank = math.ceil((len(errors) + 1) * level - 1e-9)  # 0.9 is not exact in binary
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else math.inf


def mark_intervals(
    fitted: Sequence[GradedText], heldout: Sequence[GradedText], kind: Kind, seed: int
) -> MarkIntervals | None:
    """Intervals of one kind with their measured coverage; None with too few marked texts.

    Args:
        fitted: texts of training pairs, for the curve.
        heldout: texts of held-out pairs, for quantile and coverage.
    """
    fitted, heldout = ([t for t in texts if t.kind == kind and t.mark is not None] for texts in (fitted, heldout))
    images = sorted({text.image for text in heldout})
    if len(fitted) < MIN_FITTED or len(images) < MIN_IMAGES:
        return None
    curve = MarkCurve.fit(fitted)
    quantile = conformal_quantile(_errors(curve, heldout), LEVEL)
    coverage = _coverage(curve, heldout, images, seed)
    return MarkIntervals(kind, curve, quantile, LEVEL, len(heldout), len(images), coverage)


def write_mark_intervals(folder: Path, found: Sequence[MarkIntervals]) -> None:
    """Writes ``mark_intervals.json`` of the asset ``score_model_report``."""
    text = json.dumps([asdict(one) for one in found], indent=1) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_mark_intervals(folder: Path) -> dict[Kind, MarkIntervals]:
    """The intervals in a folder of the asset ``score_model_report``, by kind; a kind without intervals is absent."""
    rows: list[dict[str, Any]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    found = {
        row["kind"]: MarkIntervals(
            **{**row, "curve": MarkCurve(**row["curve"]), "coverage": Coverage(**row["coverage"])}
        )
        for row in rows
    }
    return {kind: found[kind] for kind in KINDS if kind in found}


def _coverage(curve: MarkCurve, texts: Sequence[GradedText], images: Sequence[str], seed: int) -> Coverage:
    """Calibrates on one half of the images and counts in the other, `SPLITS` times."""
    of_text = np.searchsorted(np.array(images), [text.image for text in texts])
    scores, marks, errors = _scores(texts), _marks(texts), _errors(curve, texts)
    shares, widths = [], []
    for split in range(SPLITS):
        half = np.zeros(len(images), dtype=bool)
        half[np.random.default_rng([seed, split]).permutation(len(images))[: len(images) // 2]] = True
        calibrates = half[of_text]
        low, high = _bounds(curve, conformal_quantile(errors[calibrates], LEVEL), scores[~calibrates])
        shares.append(float(np.mean((low <= marks[~calibrates]) & (marks[~calibrates] <= high))))
        widths.append(float(np.mean(high - low)))
    return Coverage(
        float(np.mean(shares)), float(np.std(shares)), min(shares), max(shares), float(np.mean(widths)), SPLITS
    )


def _bounds(curve: MarkCurve, quantile: float, scores: Floats) -> tuple[Floats, Floats]:
    centre, half = curve.mark(scores), quantile * curve.error(scores)
    return np.maximum(centre - half, LOWEST_MARK), np.minimum(centre + half, HIGHEST_MARK)


def _errors(curve: MarkCurve, texts: Sequence[GradedText]) -> Floats:
    """Absolute error of the curve's mark of each text, in typical errors."""
    scores = _scores(texts)
    return np.abs(_marks(texts) - curve.mark(scores)) / curve.error(scores)


def _scores(texts: Sequence[GradedText]) -> Floats:
    return np.array([text.score for text in texts])


def _marks(texts: Sequence[GradedText]) -> Floats:
    return np.array([text.mark for text in texts], dtype=np.float64)
