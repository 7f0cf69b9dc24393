"""Which models are compared: the pairs (model, baseline) of the benchmark tables, and so of the claims."""

from __future__ import annotations

from collections.abc import Iterable

from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.curated_subsets import variants


def subset_comparisons(profile: Profile) -> list[tuple[str, str]]:
    """(model, baseline): the main subset, and those of other rules on its scores, against the untuned base and every
    other subset; what the claims need besides: all data against the base, and the oracle against all data."""
    rules = profile.curated_subsets.subsets
    pairs = [(name, other) for name in variants(profile.curated_subsets.main, rules) for other in ("base", *rules)]
    for everything in (name for name, rule in rules.items() if rule.selector == "all"):
        pairs.append((everything, "base"))
        pairs += [(name, everything) for name, rule in rules.items() if rule.selector == "oracle"]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]


def policy_comparisons(profile: Profile, policies: Iterable[str]) -> list[tuple[str, str]]:
    """(model, baseline): the policy against the model that it started from, and against the one without scores."""
    policy, rules_only = policies
    return [(policy, profile.policy_start), (policy, rules_only)]
