"""Ranking keys of a rule and how many samples it keeps; used in memory and for streaming."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsqa_pipeline.curated_subsets.corpus import Kind
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import LOWER_BOUND_SPREADS
from rsqa_pipeline.profile.curated_subsets import SubsetRule

Keys = npt.NDArray[np.float64]


def uniform(ids: Collection[str] | pd.Series, seed: int) -> Keys:
    """(n,) numbers in [0, 1) that depend only on seed and id, not on the other samples or their order."""
    start = hashlib.sha256(_with_length(str(seed).encode()))

    def digest(name: bytes) -> bytes:
        hasher = start.copy()
        hasher.update(_with_length(name))
        return hasher.digest()[:8]

    words = np.frombuffer(b"".join(digest(name.encode()) for name in ids), dtype=">u8")
    return (words >> np.uint64(12)).astype(np.float64) / 2.0**52


def ranking_keys(rule: SubsetRule, ids: Collection[str] | pd.Series, scores: Keys | None, seed: int) -> Keys:
    """(n,) keys of a rule with a selector: higher is kept first, equal keys are ordered by id, NaN is not eligible.

    With a temperature, the keys are score / temperature plus Gumbel noise, so that the k best keys are k draws without
    replacement with odds proportional to exp(score / temperature) (Efraimidis and Spirakis, 2006).

    Args:
        scores: (n,) scores of the rule's selector, not finite if missing; None for the selectors all, clean and random.
    """
    if rule.selector in ("all", "clean"):
        return np.zeros(len(ids))
    if rule.selector == "random":
        return uniform(ids, seed)
    assert scores is not None
    scores = np.where(np.isfinite(scores), scores, np.nan)
    if rule.temperature is None:
        return scores + 0.0  # makes -0.0 and 0.0 the same score
    noise = -np.log(-np.log(np.maximum(uniform(ids, seed), 2.0**-53)))
    return scores / rule.temperature + noise


def lower_bound(scores: Keys, spreads: Keys) -> Keys:
    """(n,) lower bounds of scores, see `Score.lower_bound`; NaN if score or spread is missing."""
    return scores - LOWER_BOUND_SPREADS * spreads


def standardized(scores: pd.Series, kinds: pd.Series) -> pd.Series:
    """Scores minus the mean of their kind, over its standard deviation; 0 if all scores of the kind are equal."""
    of_kind = scores.where(np.isfinite(scores)).groupby(kinds)
    deviation = of_kind.transform(lambda values: values.std(ddof=0))
    return (scores - of_kind.transform("mean")) / deviation.where(deviation > 0, 1.0)


def crowded(samples: pd.DataFrame, limit: int) -> npt.NDArray[np.bool_]:
    """(n,) whether ``limit`` samples of the same image and group rank higher: their image is full.

    Args:
        samples: columns ``key`` (NaN is not eligible), ``sample_id``, ``group``, ``image`` (missing: not limited).
    """
    ranked = samples[samples["key"].notna() & samples["image"].notna()]
    ordered = ranked.sort_values(["key", "sample_id"], ascending=[False, True])
    full = ordered.groupby(["group", "image"]).cumcount() >= limit
    return full.reindex(samples.index, fill_value=False).to_numpy(dtype=bool)


def image_column(columns: Sequence[str]) -> str:
    """The column that distinguishes images.

    Raises:
        DataError: there is none.
    """
    found = [name for name in ("image_id", "image_hash", "image") if name in columns]
    if not found:
        raise DataError(f"max_per_image needs a column image_id, image_hash or image; found {', '.join(columns)}")
    return found[0]


def kept_count(samples: int, share: float) -> int:
    """How many of ``samples`` a fraction keeps: the nearest integer, halves up, at least one if there are any."""
    return min(samples, max(1, math.floor(samples * share + 0.5)))


def fraction(rule: SubsetRule, kind: Kind | None) -> float:
    """The rule's fraction for one kind; None if kinds are not distinguished and the rule has one fraction for both."""
    return rule.instruction_fraction if kind == "instruction" else rule.caption_fraction


def quota(rule: SubsetRule, kind: Kind | None, samples: int) -> int:
    """How many of a group's ``samples`` the rule keeps: the fraction, but at least the floor."""
    return max(kept_count(samples, fraction(rule, kind)), min(samples, rule.floor))


def is_random(rule: SubsetRule) -> bool:
    """Whether the selection is random."""
    return rule.selector == "random" or rule.temperature is not None


def describe_rule(rule: SubsetRule, kind: Kind | None) -> str:
    """A rule with a selector as one line of text: ``score_model: best 30% of each scene_class, at least 5``."""
    share = f"{100 * fraction(rule, kind):g}%"
    name = " + ".join(f"{weight:g} {part}" for part, weight in rule.weights.items()) or str(rule.selector)
    name += " lower bound" if rule.bound else ""
    words = f"{name}: {share} drawn" if is_random(rule) else f"{name}: best {share}"
    if rule.temperature is not None:
        words += f" at temperature {rule.temperature:g}"
    words += f" of each {rule.per}" if rule.per else f" of {kind}s" if kind else ""
    if rule.floor:
        words += f", at least {rule.floor}"
    if rule.max_per_image is not None:
        words += f", at most {rule.max_per_image} per image"
    if rule.threshold is not None:
        words += f", score at least {rule.threshold:g}"
    if rule.diverse:
        words += f", diverse within the best {100 * rule.diverse.top:g}%"
    return words


def percentile(rank: npt.NDArray[np.float64] | npt.NDArray[np.int64], scored: int) -> npt.NDArray[np.float64]:
    """Percentage of ``scored`` samples that rank equal to or below a sample of this rank (1 is best)."""
    return 100.0 * (scored - rank + 1) / max(scored, 1)


def _with_length(part: bytes) -> bytes:
    """A part as `records.sha256` passes it to the hash."""
    return len(part).to_bytes(8, "big") + part
