"""The total reward of completions: combines the partial rewards and calls the score model for open-ended answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.rewards import (
    combined_reward,
    exact_match_reward,
    format_reward,
    iou_reward,
    open_ended_reward,
    read_answer,
)
from rsqa_pipeline.score_model.scoring.scorer import Scorer

Rewards = list[float | None]


@dataclass(frozen=True)
class MeasuredRewards:
    """Rewards in the order of the completions; None where there is no value."""

    total: Rewards
    """In [0, format weight + accuracy weight]."""
    format: Rewards
    """0 or 1."""
    accuracy: Rewards
    """In [0, 1]; 0 without the format; None if the reward does not apply or its score is missing."""


def measure(
    completions: Sequence[str], prompts: Sequence[PolicyPrompt], scorer: Scorer | None, config: RlPolicy
) -> MeasuredRewards:
    """Reward of each completion, where ``prompts[i]`` is the prompt of ``completions[i]``.

    Args:
        scorer: scores open-ended answers. With None, their total is the format reward alone.

    Raises:
        Exceptions of the scorer are not caught: a reward that cannot be computed is not 0.
    """
    formats = format_reward(completions)
    answers = [read_answer(completion) for completion in completions]
    accuracies: Rewards = [0.0 if answer is None else None for answer in answers]
    for kind in ("close_ended", "grounding", "open_ended"):
        indices = [i for i, answer in enumerate(answers) if answer is not None and prompts[i].kind == kind]
        found = _accuracies(kind, [answers[i] or "" for i in indices], [prompts[i] for i in indices], scorer, config)
        for index, accuracy in zip(indices, found, strict=True):
            accuracies[index] = accuracy
    totals = combined_reward(formats, accuracies, config.format_weight, config.accuracy_weight)
    if scorer is None:
        format_only = combined_reward(formats, [0.0] * len(formats), config.format_weight, config.accuracy_weight)
        totals = [
            format_total if prompt.kind == "open_ended" else total
            for total, format_total, prompt in zip(totals, format_only, prompts, strict=True)
        ]
    return MeasuredRewards(totals, formats, accuracies)


def reward_function(prompts: Sequence[PolicyPrompt], scorer: Scorer | None, config: RlPolicy) -> Callable[..., Rewards]:
    """`measure` as a TRL reward function. The column ``prompt_index`` is a row's index in ``prompts``.

    Logs the mean format and accuracy rewards.
    """

    def policy_reward(
        completions: Sequence[Sequence[dict[str, Any]]],
        prompt_index: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> Rewards:
        texts = [turns[-1]["content"] for turns in completions]
        measured = measure(texts, [prompts[index] for index in prompt_index], scorer, config)
        for name, values in (("format", measured.format), ("accuracy", measured.accuracy)):
            found = [value for value in values if value is not None]
            if found:
                log_metric(name, sum(found) / len(found))
        return measured.total

    return policy_reward


def _accuracies(
    kind: str, answers: list[str], prompts: list[PolicyPrompt], scorer: Scorer | None, config: RlPolicy
) -> Rewards:
    if kind == "close_ended":
        return exact_match_reward(answers, [prompt.reference for prompt in prompts])
    if kind == "grounding":
        return iou_reward(answers, [prompt.reference for prompt in prompts])
    if scorer is None:
        return [None] * len(answers)
    groups = [ScoringGroup(p.image, p.context, [answer]) for p, answer in zip(prompts, answers, strict=True)]
    scores = [score for (score,) in scorer.score(groups)]
    references = [prompt.reference_score for prompt in prompts]
    return open_ended_reward(scores, references, config.open_ended_beta, config.open_ended_form)
