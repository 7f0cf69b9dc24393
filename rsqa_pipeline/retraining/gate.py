"""The gate of a retraining: the new score model against the one that the base commit recorded.

It is stricter than `rsqa promote`, which keeps a new model that is not worse: a retraining passes only if it is better.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.retraining.baseline import Baseline
from rsqa_pipeline.score_model.evaluation.probes import ProbeResult, run_probes
from rsqa_pipeline.score_model.evaluation.promotion import PREFERENCES, failed_probes
from rsqa_pipeline.score_model.pairs import Pair, ScoredPair, agrees, read_pairs, score_pairs
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.statistics import Interval, hierarchical_mean
from rsqa_pipeline.versions import folder_version

MODEL = "score_model"
Verdict = Literal["passed", "refused", "unchanged"]


@dataclass(frozen=True)
class Gate:
    """Whether the retrained score model may replace the one of the base commit."""

    verdict: Verdict
    reasons: list[str]
    difference: Interval | None = None
    """Accuracy of the new model minus that of the old one on the same held-out pairs, -1 to 1; None if the models were
    not compared."""
    families: Mapping[str, Interval] = field(default_factory=dict)
    """The same difference for each family of pairs."""


def judge(profile: Profile, baseline: Baseline) -> Gate:
    """Compares the score model on disk with the one of the base commit on today's held-out pairs.

    Pairs are held out by the hash of their image, so neither model has learned from them.

    Raises:
        DataError: there is no held-out pair, or the base commit's model is in neither the DVC cache nor its remote.
    """
    assets = assets_of(profile)
    folder = assets[MODEL].folder(profile)
    before = baseline.versions().get(MODEL)
    if before == folder_version(folder):
        return Gate("unchanged", ["the score model is the one of the base commit"])
    pairs = [pair for name in PREFERENCES for pair in read_pairs(assets[name].folder(profile), "heldout")]
    new = Scorer.load(folder / "model", profile.compute)
    probes = run_probes(new, pairs)
    if before is None:
        failed = failed_probes(probes)
        return Gate("refused" if failed else "passed", failed or ["the base commit has no score model; probes pass"])
    with tempfile.TemporaryDirectory() as scratch:
        old = Scorer.load(baseline.fetch(folder, Path(scratch)) / "model", profile.compute)
        scored = score_pairs(old, pairs)
    return decide(pairs, score_pairs(new, pairs), scored, probes, profile.benchmarks.bootstrap_resamples, profile.seed)


def decide(
    pairs: Sequence[Pair],
    new: Sequence[ScoredPair],
    old: Sequence[ScoredPair],
    probes: Sequence[ProbeResult],
    resamples: int,
    seed: int,
) -> Gate:
    """Passed if every probe passes, the interval of the difference lies above 0, and no family's lies below 0.

    Intervals are 95 %, by bootstrap over images: the pairs of one image are drawn together.

    Args:
        new: scores of each pair, in the pairs' order; ``old`` likewise.

    Raises:
        DataError: no pair that both models scored.
    """
    compared = [
        (pair, float(mine) - float(theirs))
        for pair, mine, theirs in zip(pairs, map(agrees, new), map(agrees, old), strict=True)
        if mine is not None and theirs is not None
    ]
    if not compared:
        raise DataError("the new and the old score model scored no held-out pair in common; run the preferences first")
    difference = _interval(compared, resamples, seed)
    families = {
        family: _interval([entry for entry in compared if entry[0]["family"] == family], resamples, seed)
        for family in sorted({str(pair["family"]) for pair, _ in compared})
    }
    faults = failed_probes(probes)
    if difference.low <= 0:
        faults.append(f"accuracy {_signed(difference)} against the base commit's model: the interval is not above 0")
    faults += [
        f"family {name}: accuracy {_signed(lost)}, the interval lies below 0"
        for name, lost in families.items()
        if lost.high < 0
    ]
    better = f"accuracy {_signed(difference)} against the base commit's model; no family is worse, probes pass"
    return Gate("refused" if faults else "passed", faults or [better], difference, families)


def _interval(compared: Sequence[tuple[Pair, float]], resamples: int, seed: int) -> Interval:
    values = np.array([[gain for _, gain in compared]])
    return hierarchical_mean(values, resamples, seed, [str(pair["image_id"]) for pair, _ in compared])


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] on {interval.n} pairs"
