"""What the page shows: samples with score, decision and fault, whatever they were read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rsqa_pipeline.curated_subsets.selection.ranking import describe_rule
from rsqa_pipeline.images.decode import REASONS
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.split import unit_hash

State = Literal["kept", "dropped", "quarantined"]

REASON_WORDS = {
    "no_score": "it has no score",
    "below_threshold": "its score is below the rule's threshold",
    "image_full": "enough samples of its image rank higher",
    "outside_top": "it ranks below the part that the rule keeps",
    "not_drawn": "it was not drawn",
    "too_similar": "it is too similar to samples that are kept",
    "stale_score": "its image or text is not what was scored",
    "near_duplicate": "its image is a near-duplicate of one that is kept",
    "in_benchmark": "its image or text is in a benchmark",
    "duplicate_id": "an earlier row has the same id, or the same image and text",
    **REASONS,
}
"""What the reasons of decisions and quarantines mean. A reason that is not here is shown by its name alone."""


@dataclass(frozen=True, kw_only=True)
class ExploredSample:
    """One row of the page. Example: ``ExploredSample(key="9f..", state="dropped", reason="outside_top", score=0.4)``"""

    key: str
    state: State
    reason: str | None = None
    """Why it is dropped or quarantined."""
    rule: str | None = None
    """The rule in words; None for a row that the rule never saw."""
    rank: int | None = None
    """1 + number of samples in its group that rank higher, of a dropped sample with a score."""
    percentile: float | None = None
    """Percentage of the scored samples of its group that rank equal or lower."""
    score: float | None = None
    clip_score: float | None = None
    true_quality: float | None = None
    """1..5, if the source knows it."""
    kind: str | None = None
    source: str | None = None
    scene_class: str | None = None
    task: str | None = None
    fault: str | None = None
    """The quarantine's reason, or the fault that was put into the text on purpose."""
    detail: str | None = None
    """What exactly was found, of a quarantined row."""
    note: str | None = None
    """What the score model did not see in full."""
    image: str | None = None
    image_id: str | None = None
    messages: list[Message] = field(default_factory=list)
    group: str | None = None
    """Near-duplicate group of its image; None if the image has no near-duplicate."""


@dataclass(frozen=True)
class Exploration:
    """The samples of one page."""

    title: str
    samples: list[ExploredSample]
    total: int
    """Samples before any were left out for the page's size."""

    @property
    def rule(self) -> str:
        """What was kept, in words."""
        return "; ".join(dict.fromkeys(sample.rule for sample in self.samples if sample.rule is not None))


def rule_words(rule: SubsetRule, kind: str | None) -> str:
    """A rule as one line of text, its parts joined by "and" or "or"."""
    if rule.parts:
        return (" or " if rule.any_of else " and ").join(rule_words(part, kind) for part in rule.parts)
    return describe_rule(rule, "caption" if kind == "caption" else "instruction" if kind == "instruction" else None)


def drawn(keys: Iterable[str], limit: int) -> set[str] | None:
    """The ``limit`` keys with the smallest hashes, so that a page has the same samples every time; None for all."""
    known = list(keys)
    if len(known) <= limit:
        return None
    return set(sorted(known, key=lambda key: unit_hash("explorer", key))[:limit])


def quarantined(row: Mapping[str, Any]) -> ExploredSample:
    """A row of QUARANTINE."""
    reason = row["reason"]
    return ExploredSample(
        key=row["sample_id"], state="quarantined", reason=reason, fault=reason, detail=row.get("detail")
    )
