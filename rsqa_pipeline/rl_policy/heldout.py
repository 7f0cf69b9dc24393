"""The policy's reward on held-out prompts before and after GRPO, measured with the same reward, with intervals.

Intervals are clustered by image: the prompts of one image are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.rl_policy.policy_reward import Rewards, measure
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import hierarchical_mean

SAMPLES = 4
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


def compare(
    before: HeldoutRewards, after: HeldoutRewards, prompts: Sequence[PolicyPrompt], seed: int
) -> dict[str, Any]:
    """``{"before": {"value", "low", "high", "n", "format": {..}, "accuracy": {..}}, "after": .., "difference": ..}``.

    The difference is paired, after minus before. For each part, only prompts with a value both times count. ``kinds``
    holds the same for the prompts of each kind alone, e.g. ``report["kinds"]["open_ended"]["difference"]``: GRPO may
    raise one kind at the cost of another. There, a part without a value is left out.

    Args:
        prompts: the held-out prompts, in the order of the rewards.

    Raises:
        DataError: a part has no value for any prompt.
    """
    images = [prompt.image_id for prompt in prompts]
    report: dict[str, Any] = _compare(before, after, images, seed)
    for part in PARTS[1:]:
        if part not in report["difference"]:
            raise DataError(f"no held-out prompt has the part {part!r} both before and after GRPO")
    kinds: dict[str, Any] = {}
    for kind in sorted({prompt.kind for prompt in prompts}):
        places = [place for place, prompt in enumerate(prompts) if prompt.kind == kind]
        first, second = (_rewards_at(moment, places) for moment in (before, after))
        kinds[kind] = _compare(first, second, [images[place] for place in places], seed)
    return {**report, "kinds": kinds}


def _compare(
    before: HeldoutRewards, after: HeldoutRewards, images: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {"before": {}, "after": {}, "difference": {}}
    for part in PARTS:
        rows = zip(getattr(before, part), getattr(after, part), images, strict=True)
        found = [(first, second, image) for first, second, image in rows if first is not None and second is not None]
        if not found:
            continue
        firsts, seconds, clusters = zip(*found, strict=True)
        values = {"before": np.array(firsts), "after": np.array(seconds)}
        values["difference"] = values["after"] - values["before"]
        for moment, of_moment in values.items():
            interval = asdict(hierarchical_mean(of_moment[None], RESAMPLES, seed, clusters))
            report[moment].update(interval if part == "total" else {part: interval})
    return report


def _rewards_at(rewards: HeldoutRewards, places: Sequence[int]) -> HeldoutRewards:
    return HeldoutRewards(*([getattr(rewards, part)[place] for place in places] for part in PARTS))


def _means(values: Rewards) -> Rewards:
    means: Rewards = []
    for start in range(0, len(values), SAMPLES):
        found = [value for value in values[start : start + SAMPLES] if value is not None]
        means.append(sum(found) / len(found) if found else None)
    return means
