"""Profile section ``curated_subsets``: how the corpus is scored and which part of it each subset keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, Fraction, Section

Selector = Literal["all", "random", "clip_score", "score_model", "blend", "oracle", "clean"]
"""``blend`` ranks by a weighted sum of standardized scores.

Two bounds, where the source knows the truth: ``oracle`` ranks by the true quality, the most that any ranking can give;
``clean`` keeps every sample and trains on a right text in place of each wrong one.
"""
Weights = dict[Literal["score_model", "clip_score"], Annotated[float, Field(gt=0)]]


class Diversity(Section):
    """Keeps diverse samples: facility location over embeddings, within the top part."""

    embeddings: str
    """Parquet file with columns ``sample_id`` (or ``key``) and ``embedding`` (lists of numbers, all of one length)."""
    top: Fraction
    """Best share of the samples to choose from; the rule's fraction still refers to all samples."""


class SubsetRule(Section):
    """Which samples to keep: a selector with its conditions, or the intersection or union of other rules.

    Example: ``{selector: score_model, caption_fraction: 0.3, instruction_fraction: 0.6, per: scene_class, floor: 5}``
    """

    label: str | None = None
    """What tables and plots call the subset; by default its name."""
    selector: Selector | None = None
    weights: Weights = Field(default={})
    """Of the selector ``blend``, e.g. ``{score_model: 1.0, clip_score: 0.5}``: each score is centred and scaled to
    standard deviation 1 over the samples of its kind. Choose them on held-out preference pairs, not on a benchmark."""
    bound: Literal["lower"] | None = None
    """Rank by the lower bound of the score, its value minus 1.645 spreads, instead of the score. It needs a score model
    with ``score_model.bootstrap_heads``; a sample without a spread has no lower bound and is not ranked."""
    caption_fraction: Fraction = 1.0
    instruction_fraction: Fraction = 1.0
    threshold: float | None = None
    """Minimum score to keep, in the score's own unit; the fractions still apply."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Draw without replacement with odds proportional to exp(score / temperature) instead of taking the best."""
    per: str | None = None
    """Column of the samples, e.g. scene_class, source or image_id: the fractions apply to each of its groups."""
    floor: Annotated[int, Field(ge=0)] = 0
    """Keep at least this many of each group; smaller groups are kept completely."""
    max_per_image: Count | None = None
    """Keep at most this many samples of an image and kind, the best ones, so that the part shows more images."""
    diverse: Diversity | None = None
    all_of: list[SubsetRule] = Field(default=[])
    """Keep the samples that all of these rules keep."""
    any_of: list[SubsetRule] = Field(default=[])
    """Keep the samples that at least one of these rules keeps."""

    @model_validator(mode="after")
    def _goes_together(self) -> SubsetRule:
        kinds = [name for name in ("selector", "all_of", "any_of") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of selector, all_of, any_of; found {', '.join(kinds) or 'none'}")
        beside = sorted(self.model_fields_set - {kinds[0], "label"})
        if kinds != ["selector"] and beside:
            raise ValueError(f"{kinds[0]} stands alone; {', '.join(beside)} belongs into its rules")
        scored = [name for name in ("threshold", "temperature") if getattr(self, name) is not None]
        if scored and self.selector in ("all", "random", "clean"):
            raise ValueError(f"{scored[0]} needs a score; selector {self.selector} has none")
        if self.bound and self.selector != "score_model":
            raise ValueError(f"bound needs selector score_model, whose scores have a spread; found {self.selector}")
        if any("clean" in part.selectors for part in self.parts):
            raise ValueError("selector clean replaces texts, so it cannot be part of another rule")
        if (self.selector == "blend") != bool(self.weights):
            raise ValueError("selector blend needs weights, and only blend has them")
        if self.floor and self.per is None:
            raise ValueError("floor needs per: the column whose groups it is for")
        if self.diverse and self.diverse.top < max(self.caption_fraction, self.instruction_fraction):
            raise ValueError(f"diverse.top {self.diverse.top} must not be below the fractions to keep")
        return self

    @property
    def parts(self) -> list[SubsetRule]:
        """The rules of an intersection or union; empty for a rule with a selector."""
        return self.all_of or self.any_of

    @property
    def selectors(self) -> set[str]:
        """Every selector that the rule uses."""
        own = {str(self.selector), *self.weights} if self.selector else set()
        return own.union(*(part.selectors for part in self.parts))

    @property
    def embedding_files(self) -> list[str]:
        """External files that the rule reads."""
        own = [self.diverse.embeddings] if self.diverse else []
        return own + [path for part in self.parts for path in part.embedding_files]


class Drift(Section):
    """How far scores may shift from one version of the score model to the next before a check warns."""

    samples: Count
    """Captions that both versions score, drawn by hash."""
    max_psi: Annotated[float, Field(gt=0)] = 0.25
    """Population stability index; by convention, above 0.25 is a shift."""
    min_top_overlap: Fraction = 0.5
    """Minimum Jaccard index of the best 30 % of the two versions."""


POLICY_NAMES = ("rl_policy", "rl_policy_rules_only")
RESERVED_NAMES = {"base", *POLICY_NAMES}
SubsetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
EngineName = Literal["local", "ray"]
ClipText = Literal["truncate", "windowed_mean"]


class CuratedSubsets(Section):
    batch_size: Count
    """Images, and texts, that CLIP scores at once. For the score model, see ``compute.batch_tokens``."""
    shard_rows: Count
    """Rows scored as one unit: the work that a kill can lose, and that a worker takes at a time."""
    engine: EngineName = "local"
    """``ray`` scores on a Ray cluster (extra ``cluster``), or on one started on this machine."""
    workers: Count = 1
    """Processes (Ray: actors) that score, each with its own model, spread over the GPUs."""
    clip_text: ClipText = "truncate"
    """How CLIP handles a text longer than its context: truncate it, or average the vectors of its windows."""
    subsets: dict[SubsetName, SubsetRule] = Field(min_length=1)
    """What is kept, by name: each is an asset, and so are the CLIP and the VLM fine-tuned on it (paper, Table 1)."""
    main: str
    """The subset that comparisons are about; by default, GRPO and best of N start from its VLM."""
    drift: Drift

    @model_validator(mode="after")
    def _main_is_a_subset(self) -> CuratedSubsets:
        if self.main not in self.subsets:
            raise ValueError(f"main {self.main!r} is not a subset; known: {', '.join(self.subsets)}")
        reserved = sorted(set(self.subsets) & RESERVED_NAMES)
        if reserved:
            raise ValueError(f"subsets: {', '.join(reserved)} is the name of another row of the tables; rename it")
        return self


def variants(main: str, rules: Mapping[str, SubsetRule]) -> list[str]:
    """The main subset, then those of other rules on the same scores."""
    selector = rules[main].selector
    return [main, *(name for name, rule in rules.items() if name != main and selector and rule.selector == selector)]


class CurationCurve(Section):
    """A downstream metric over the kept fraction, from a cheap proxy model (asset ``curation_curve``)."""

    fractions: list[Fraction] = Field(min_length=2)
    rankings: list[Literal["score_model", "clip_score", "random"]] = Field(min_length=1)
    seeds: Annotated[int, Field(ge=2)]
