"""The gate between ``challenger`` and ``champion``: a new score model replaces the old one only if it is not worse.

Both score the same held-out pairs. The challenger is promoted if McNemar's exact test does not find it worse, no
family of pairs is worse by more than a margin (considering the paired interval), and every probe passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.evaluation.probes import ProbeResult, run_probes
from rsqa_pipeline.score_model.pairs import Pair, ScoredPair, agrees, read_pairs, score_pairs
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.statistics import mcnemar, paired_difference

SIGNIFICANCE = 0.05
PREFERENCES = ("caption_preferences", "instruction_preferences")


class Registry(Protocol):
    """Stores versions of the score model and their aliases."""

    def version_at(self, model: str, alias: str) -> str | None: ...

    def download(self, model: str, version: str) -> Path: ...

    def record_decision(self, model: str, version: str, decision: dict[str, Any], promoted: bool) -> None: ...


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, why, and the numbers behind it; stored with the model version."""

    promoted: bool
    reasons: list[str]
    """Why it is refused or, if promoted, why it is promoted."""
    numbers: dict[str, Any] = field(default_factory=dict)


def promote(settings: Profile, registry: Registry) -> tuple[str, Decision]:
    """Compares the registered ``challenger`` with the ``champion`` and promotes it if it passes the gate.

    The held-out pairs are those of the preference data on disk. Pairs are held out by the hash of their image,
    so neither model has learned from them, no matter when it was trained.

    Returns:
        The challenger's version and the decision, which is stored with that version.

    Raises:
        DataError: no challenger is registered, or there are no held-out pairs.
    """
    version = registry.version_at("score_model", "challenger")
    if version is None:
        raise DataError("no score model is registered; run `rsqa run score_model` first")
    pairs = [pair for name in PREFERENCES for pair in read_pairs(assets_of(settings)[name].folder(settings), "heldout")]
    challenger = Scorer.load(registry.download("score_model", version), settings.compute)
    champion_version = registry.version_at("score_model", "champion")
    champion = None
    if champion_version is not None:
        old = Scorer.load(registry.download("score_model", champion_version), settings.compute)
        champion = score_pairs(old, pairs)
    decision = decide(
        pairs,
        score_pairs(challenger, pairs),
        champion,
        run_probes(challenger, pairs),
        settings.score_model.promotion_margin,
        settings.benchmarks.bootstrap_resamples,
        settings.seed,
    )
    stored = {**asdict(decision), "champion_version": champion_version}
    registry.record_decision("score_model", version, stored, decision.promoted)
    return version, decision


def decide(
    pairs: Sequence[Pair],
    challenger: Sequence[ScoredPair],
    champion: Sequence[ScoredPair] | None,
    probes: Sequence[ProbeResult],
    margin: float,
    resamples: int,
    seed: int,
) -> Decision:
    """The decision over the judge's labels of held-out pairs.

    Args:
        challenger: its scores of each pair, in the pairs' order.
        champion: likewise; None if there is none yet, and then only the probes decide.
        margin: accuracy, 0..1, that a family may lose: refused if the paired difference is below minus the margin.

    Raises:
        DataError: no pair that both models scored.
    """
    failed = failed_probes(probes)
    numbers: dict[str, Any] = {"probes": {probe.probe: probe.value for probe in probes}, "pairs": len(pairs)}
    if champion is None:
        reasons = failed or ["there is no champion yet, and every probe passes"]
        return Decision(not failed, reasons, numbers)
    worse = _compare(pairs, challenger, champion, margin, resamples, seed, numbers)
    reasons = failed + worse
    return Decision(not reasons, reasons or [numbers["verdict"]], numbers)


def failed_probes(probes: Sequence[ProbeResult]) -> list[str]:
    """One line for each probe that does not pass."""
    return [
        f"probe {probe.probe}: the score falls in {probe.value:.3f} [{probe.low:.3f}, {probe.high:.3f}] of {probe.n}, "
        "needs more than chance"
        for probe in probes
        if not probe.passed
    ]


def _compare(
    pairs: Sequence[Pair],
    challenger: Sequence[ScoredPair],
    champion: Sequence[ScoredPair],
    margin: float,
    resamples: int,
    seed: int,
    numbers: dict[str, Any],
) -> list[str]:
    verdicts = [
        (str(pair["family"]), new, old)
        for pair, new, old in zip(pairs, map(agrees, challenger), map(agrees, champion), strict=True)
        if new is not None and old is not None
    ]
    if not verdicts:
        raise DataError("challenger and champion scored no held-out pair in common; materialize the preferences first")
    new, old = [v[1] for v in verdicts], [v[2] for v in verdicts]
    p = mcnemar(new, old)
    gain = sum(new) / len(new) - sum(old) / len(old)
    numbers |= {
        "challenger": sum(new) / len(new),
        "champion": sum(old) / len(old),
        "mcnemar_p": p,
        "compared": len(new),
    }
    numbers["verdict"] = f"accuracy {gain:+.4f} against the champion on {len(new)} pairs, McNemar p = {p:.3g}"
    worse = [f"worse than the champion: {numbers['verdict']}"] if gain < 0 and p < SIGNIFICANCE else []
    numbers["families"] = {}
    for family in sorted({v[0] for v in verdicts}):
        mine = [v for v in verdicts if v[0] == family]
        lost = paired_difference([v[1] for v in mine], [v[2] for v in mine], resamples, seed)
        numbers["families"][family] = {"value": lost.value, "low": lost.low, "high": lost.high, "n": lost.n}
        if lost.value < -margin:
            worse.append(f"family {family}: accuracy {lost} against the champion, more than {margin:g} is lost")
    return worse
