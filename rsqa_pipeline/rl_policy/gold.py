"""Gold: what the reward stands for, measured on what no training has seen, by something that the policy cannot learn.

In the demo it is the truth of the scenes; with real data, benchmark items with references, or another score model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rsqa_pipeline.answer_matching import same_answer
from rsqa_pipeline.boxes import is_hit
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Profile, RlPolicy
from rsqa_pipeline.profile.watch import Watch
from rsqa_pipeline.records import Message, read_table
from rsqa_pipeline.rl_policy.heldout import GENERATE_BATCH
from rsqa_pipeline.rl_policy.monitors import MIN_PROBES, Values
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer
from rsqa_pipeline.scenes.answer_marks import mark_answer
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.score_model.scoring.scorer import Scorer

T = TypeVar("T")


class Gold(Protocol):
    def measure(self, policy: Vlm, completions: Sequence[str]) -> Values:
        """One value per unit, in the same order at each call; higher is better, None is missing.

        Args:
            completions: the policy's, one per probe.
        """


def gold_of(watch: Watch, probes: Sequence[PolicyPrompt], inputs: Mapping[str, Path], settings: Profile) -> Gold:
    """The gold that the profile names.

    Raises:
        DataError: too few benchmark items are left, or a probe has no scene.
        ModelError: the second score model cannot be loaded.
    """
    if watch.gold == "truth":
        truth = read_table(inputs["instruction_samples"] / "truth.parquet")
        return TruthGold(probes, {row["sample_id"]: row["scene"] for row in truth})
    if watch.gold == "benchmark":
        items = read_table(inputs["benchmark_sets"] / "items.parquet")
        return BenchmarkGold(items, watch.probes, settings.rl_policy, settings.seed)
    assert watch.gold_model is not None  # the profile was checked
    return ScoreModelGold(probes, Scorer.load(watch.gold_model, settings.compute))


class TruthGold:
    """The mean mark of an answer by the truth of its scene, 0..1; 0 for a completion without an answer."""

    def __init__(self, probes: Sequence[PolicyPrompt], scenes: Mapping[str, int | None]) -> None:
        """
        Args:
            scenes: sample id -> seed of its scene.

        Raises:
            DataError: a probe has no scene.
        """
        if without := [probe.sample_id for probe in probes if scenes.get(probe.sample_id) is None]:
            raise DataError(
                f"{len(without)} held-out prompts show no scene, e.g. {without[0]}, so their truth is not known; "
                "set rl_policy.watch.gold to benchmark or score_model"
            )
        self._asked = [(sample_scene(scenes[p.sample_id] or 0), p.context[-1]["content"]) for p in probes]

    def measure(self, policy: Vlm, completions: Sequence[str]) -> Values:
        answers = map(read_answer, completions)
        return [
            0.0 if answer is None else (mark_answer(truth, question, answer).mean - 1) / 4
            for (truth, question), answer in zip(self._asked, answers, strict=True)
        ]


class BenchmarkGold:
    """1 for a right answer to a benchmark item, 0 for a wrong one or none; greedy, one item per image."""

    def __init__(self, items: Sequence[Mapping[str, Any]], count: int, config: RlPolicy, seed: int) -> None:
        """
        Args:
            items: rows of BENCHMARK_ITEM; those with a question, and a short answer or boxes, are used.
            count: most items.

        Raises:
            DataError: fewer than `MIN_PROBES` such items on different images.
        """
        usable = [
            item
            for item in items
            if item["question"] and not item["choices"] and (item["boxes"] or (item["answer"] or "").strip())
        ]
        self._items = one_per_image(usable, [item["image_id"] for item in usable])[:count]
        if len(self._items) < MIN_PROBES:
            raise DataError(
                f"rl_policy.watch.gold: benchmark_sets has {len(self._items)} images with a short answer or a box; "
                f"at least {MIN_PROBES} are needed: raise source_pairs.benchmark_items or use another gold"
            )
        self._max_new_tokens, self._seed = config.sampling.max_new_tokens, seed

    def measure(self, policy: Vlm, completions: Sequence[str]) -> Values:
        chats = [reasoning_prompt([Message(role="user", content=item["question"])]) for item in self._items]
        images = [open_image(item["image"]) for item in self._items]
        replies = generate(policy, chats, images, None, self._max_new_tokens, GENERATE_BATCH, self._seed)
        return [_right(read_answer(reply), item) for (reply,), item in zip(replies, self._items, strict=True)]


class ScoreModelGold:
    """The score of an answer by a score model that has no part in the reward; None without an answer."""

    def __init__(self, probes: Sequence[PolicyPrompt], scorer: Scorer) -> None:
        self._probes, self._scorer = probes, scorer

    def measure(self, policy: Vlm, completions: Sequence[str]) -> Values:
        return scores_of([read_answer(text) for text in completions], self._probes, self._probes, self._scorer)


def scores_of(
    answers: Sequence[str | None], asked: Sequence[PolicyPrompt], shown: Sequence[PolicyPrompt], scorer: Scorer
) -> Values:
    """Score of each answer to the question ``asked[i]`` with the image of ``shown[i]``; None without an answer."""
    indices = [i for i, answer in enumerate(answers) if answer is not None]
    groups = [ScoringGroup(shown[i].image, asked[i].context, [answers[i] or ""]) for i in indices]
    values: Values = [None] * len(answers)
    for index, (score,) in zip(indices, scorer.score(groups), strict=True):
        values[index] = score
    return values


def one_per_image(rows: Iterable[T], image_ids: Iterable[str]) -> list[T]:
    """The first row of each image, in order: rows of one image are not independent."""
    first: dict[str, T] = {}
    for row, image_id in zip(rows, image_ids, strict=True):
        first.setdefault(image_id, row)
    return list(first.values())


def _right(answer: str | None, item: Mapping[str, Any]) -> float:
    if item["boxes"]:
        return float(is_hit(answer, item["boxes"]))
    return float(same_answer(answer, item["answer"]))
