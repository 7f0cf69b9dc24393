"""What the tables and plots of a run compare: the subsets of its profile, the models tuned on them, the policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rsqa_pipeline import plots
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule, variants

LABELS = {
    "base": "untuned base",
    "rl_policy": "RL, with score reward",
    "rl_policy_rules_only": "RL, rules only",
}
"""Display names of the rows that are not subsets."""

POLICIES = ("rl_policy_rules_only", "rl_policy")


@dataclass(frozen=True)
class Compared:
    """The subsets of a profile, in its order, with the name and the colour that they have everywhere."""

    main: str
    """The subset that comparisons are about."""
    rules: Mapping[str, SubsetRule]

    @classmethod
    def of(cls, profile: Profile) -> Compared:
        return cls(profile.curated_subsets.main, profile.curated_subsets.subsets)

    @property
    def subsets(self) -> list[str]:
        return list(self.rules)

    @property
    def selected(self) -> list[str]:
        """Subsets that leave something out."""
        return [name for name, rule in self.rules.items() if rule.selector not in ("all", "clean")]

    @property
    def baselines(self) -> list[str]:
        """Subsets that the main one is compared with."""
        return [name for name in self.rules if name != self.main]

    @property
    def variants(self) -> list[str]:
        """The main subset, then those of other rules on the same scores."""
        return variants(self.main, self.rules)

    @property
    def rivals(self) -> list[str]:
        """Subsets that a claim is about: no variant of the main one, and no bound."""
        bounds = [name for name, rule in self.rules.items() if rule.selector in ("oracle", "clean")]
        return [name for name in self.baselines if name not in (*self.variants, *bounds)]

    @property
    def models(self) -> list[str]:
        """Rows of a downstream table."""
        return ["base", *self.rules, *POLICIES]

    def chosen_by(self, selector: str) -> str | None:
        """The main subset if ``selector`` chose it, else the first subset that it chose; None without one."""
        chosen = [name for name, rule in self.rules.items() if rule.selector == selector]
        return self.main if self.main in chosen else next(iter(chosen), None)

    def label(self, name: str) -> str:
        """Display name of a subset or another row."""
        rule = self.rules.get(name)
        return (rule.label if rule else LABELS.get(name)) or name.replace("_", " ")

    def colour(self, name: str) -> str:
        colours = plots.subset_colours({name: rule.selector for name, rule in self.rules.items()})
        return colours.get(name) or plots.colour(name)
