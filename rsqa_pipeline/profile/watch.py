"""The watch on reward hacking: which monitors run during GRPO, how often, and which of them stop it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from rsqa_pipeline.profile.types import Count, NonNegative, Section

Monitor = Literal["proxy_gold", "kl", "entropy", "length", "phrase", "image"]
GoldName = Literal["truth", "benchmark", "score_model"]


class Monitors(Section):
    """A threshold for each monitor, whose value must stay at or below it; null turns a monitor off.

    The values are defined in `rl_policy.monitors`.
    """

    proxy_gold: NonNegative | None = 0.0
    """Standard deviations by which the proxy surely gains on gold, while gold is not shown to rise."""
    kl: NonNegative | None = 0.5
    """Nats per token from the start model."""
    entropy: Annotated[float, Field(ge=0, lt=1)] | None = 0.8
    """Share of the entropy at the first check that is lost."""
    length: Annotated[float, Field(ge=1)] | None = 2.0
    """Factor by which answers became longer or shorter than the start's."""
    phrase: Annotated[float, Field(ge=0, lt=1)] | None = 0.1
    """Share of images by which one phrase surely became more frequent than at the start and in the references."""
    image: Annotated[float, Field(ge=0, lt=1)] | None = 0.5
    """Share of the score that an answer owes to its own image, in place of another, that is lost."""

    @property
    def thresholds(self) -> dict[Monitor, float]:
        """Of the monitors that run."""
        every = {name: getattr(self, name) for name in get_args(Monitor)}
        return {name: threshold for name, threshold in every.items() if threshold is not None}


class Watch(Section):
    every: Count
    """Optimizer steps between two checks; the start is checked, too."""
    probes: Annotated[int, Field(ge=8)] = 64
    """Held-out prompts on different images that are answered at each check; all of them if there are fewer."""
    gold: GoldName
    """What the reward stands for. ``truth``: marks from the truth of the scenes. ``benchmark``: benchmark items with a
    short answer or a box. ``score_model``: the score of another score model, ``gold_model``."""
    gold_model: str | None = None
    """Folder of a score model that has no part in the reward."""
    monitors: Monitors = Monitors()
    stop_on: list[Monitor] = Field(default=[])
    """Monitors whose alarm stops the training; the policy is then that of the last checkpoint before."""

    @model_validator(mode="after")
    def _gold_is_there(self) -> Watch:
        if (self.gold == "score_model") != (self.gold_model is not None):
            raise ValueError(f"gold_model is needed with gold: score_model and only there; found gold: {self.gold}")
        return self

    @model_validator(mode="after")
    def _only_a_monitor_that_runs_stops(self) -> Watch:
        running = self.monitors.thresholds
        if off := [name for name in self.stop_on if name not in running]:
            raise ValueError(f"stop_on: {off[0]} is turned off in monitors; running: {', '.join(running) or 'none'}")
        return self
