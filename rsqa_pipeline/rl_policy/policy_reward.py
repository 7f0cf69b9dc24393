"""The reward of completions to given prompts: the parts put together, the score model asked where they need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rsqa_pipeline.models.scoring_group import Group
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.rewards import (
    combined_reward,
    exact_match_reward,
    format_reward,
    grounding_reward,
    open_ended_reward,
    read_answer,
)
from rsqa_pipeline.score_model.scoring.scorer import Scorer

Rewards = list[float | None]


@dataclass(frozen=True)
class Measured:
    """Rewards of completions, in their order; None where there is no value."""

    total: Rewards
    """In [0, format weight + accuracy weight]."""
    format: Rewards
    """0 or 1."""
    accuracy: Rewards
    """In [0, 1]; 0 without the format; None where the reward does not apply or its score is missing."""


def measure(
    completions: Sequence[str], prompts: Sequence[PolicyPrompt], scorer: Scorer | None, recipe: RlPolicy
) -> Measured:
    """Reward of each completion to the prompt beside it.

    Args:
        scorer: judges open-ended answers. None leaves them their format reward alone, which is then their total.

    Raises:
        Whatever the scorer raises: a reward that cannot be computed is not 0.
    """
    formats = format_reward(completions)
    answers = [read_answer(completion) for completion in completions]
    accuracies: Rewards = [0.0 if answer is None else None for answer in answers]
    for kind in ("close_ended", "grounding", "open_ended"):
        places = [i for i, answer in enumerate(answers) if answer is not None and prompts[i].kind == kind]
        found = _accuracies(kind, [answers[i] or "" for i in places], [prompts[i] for i in places], scorer, recipe)
        for place, accuracy in zip(places, found, strict=True):
            accuracies[place] = accuracy
    totals = combined_reward(formats, accuracies, recipe.format_weight, recipe.accuracy_weight)
    if scorer is None:
        alone = combined_reward(formats, [0.0] * len(formats), recipe.format_weight, recipe.accuracy_weight)
        totals = [
            bare if prompt.kind == "open_ended" else total
            for total, bare, prompt in zip(totals, alone, prompts, strict=True)
        ]
    return Measured(totals, formats, accuracies)


def reward_function(prompts: Sequence[PolicyPrompt], scorer: Scorer | None, recipe: RlPolicy) -> Callable[..., Rewards]:
    """`measure` as TRL calls it: with the column ``place``, a row's index in ``prompts``; logs format and accuracy."""

    def policy_reward(
        completions: Sequence[Sequence[dict[str, Any]]],
        place: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> Rewards:
        texts = [turns[-1]["content"] for turns in completions]
        measured = measure(texts, [prompts[p] for p in place], scorer, recipe)
        for name, values in (("format", measured.format), ("accuracy", measured.accuracy)):
            found = [value for value in values if value is not None]
            if found:
                log_metric(name, sum(found) / len(found))
        return measured.total

    return policy_reward


def _accuracies(
    kind: str, answers: list[str], prompts: list[PolicyPrompt], scorer: Scorer | None, recipe: RlPolicy
) -> Rewards:
    references = [prompt.reference for prompt in prompts]
    if kind == "close_ended":
        return exact_match_reward(answers, references)
    if kind == "grounding":
        return grounding_reward(answers, references)
    if scorer is None:
        return [None] * len(answers)
    groups = [Group(p.image, p.context, [answer]) for p, answer in zip(prompts, answers, strict=True)]
    scores = [score for (score,) in scorer.score(groups)]
    return open_ended_reward(scores, [prompt.reference_score for prompt in prompts], recipe.open_ended_beta)
