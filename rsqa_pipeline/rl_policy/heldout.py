"""The policy's reward on held-out prompts before and after GRPO, measured with the same reward, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.rl_policy.policy_reward import Rewards, measure
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import bootstrap_mean, paired_difference

SAMPLES = 2
"""Completions per held-out prompt; a prompt's reward is their mean."""
GENERATE_BATCH = 64
RESAMPLES = 1000

PARTS = ("total", "format", "accuracy")


@dataclass(frozen=True)
class HeldoutRewards:
    """One value per prompt and part, the mean over the prompt's completions; None if no completion has a value."""

    total: Rewards
    format: Rewards
    accuracy: Rewards


def measure_heldout(
    vlm: Vlm, prompts: Sequence[PolicyPrompt], scorer: Scorer, config: RlPolicy, seed: int
) -> HeldoutRewards:
    """Samples completions like GRPO and measures them with the full reward, including that of the score model."""
    completions = generate(
        vlm,
        [reasoning_prompt(prompt.context) for prompt in prompts],
        [open_image(prompt.image) for prompt in prompts],
        config.sampling,
        config.sampling.max_new_tokens,
        GENERATE_BATCH,
        seed,
        samples=SAMPLES,
    )
    texts = [text for of_prompt in completions for text in of_prompt]
    repeated_prompts = [prompt for prompt in prompts for _ in range(SAMPLES)]
    measured = measure(texts, repeated_prompts, scorer, config)
    return HeldoutRewards(*(_means(getattr(measured, part)) for part in PARTS))


def compare(before: HeldoutRewards, after: HeldoutRewards, seed: int) -> dict[str, dict[str, Any]]:
    """``{"before": {"value", "low", "high", "n", "format": {..}, "accuracy": {..}}, "after": .., "difference": ..}``.

    The difference is paired, after minus before. For each part, only prompts with a value both times count.

    Raises:
        DataError: a part has no value for any prompt.
    """
    report: dict[str, dict[str, Any]] = {"before": {}, "after": {}, "difference": {}}
    for part in PARTS:
        both = zip(getattr(before, part), getattr(after, part), strict=True)
        pairs = [(b, a) for b, a in both if b is not None and a is not None]
        if not pairs:
            raise DataError(f"no held-out prompt has the part {part!r} both before and after GRPO")
        first, second = [b for b, _ in pairs], [a for _, a in pairs]
        intervals = {
            "before": bootstrap_mean(first, RESAMPLES, seed),
            "after": bootstrap_mean(second, RESAMPLES, seed),
            "difference": paired_difference(second, first, RESAMPLES, seed),
        }
        for name, interval in intervals.items():
            if part == "total":
                report[name].update(asdict(interval))
            else:
                report[name][part] = asdict(interval)
    return report


def _means(values: Rewards) -> Rewards:
    means: Rewards = []
    for start in range(0, len(values), SAMPLES):
        found = [value for value in values[start : start + SAMPLES] if value is not None]
        means.append(sum(found) / len(found) if found else None)
    return means
