"""What the policy learns from: prompts with references, held-out prompts, and reasoning answers to begin with.

The truth is never trained on; the score model says which samples are good. Of the corpus's question-answer samples the
best within each task are taken: scores compare answers to like questions, not a class name with a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import Group
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.records import Message
from rsqa_pipeline.rl_policy.rewards import read_boxes
from rsqa_pipeline.score_model.scoring.scorer import Scorer

Kind = Literal["open_ended", "close_ended", "grounding"]

POOL = 2
"""Samples scored for each one kept, where the corpus has as many."""


@dataclass(frozen=True)
class PolicyPrompt:
    """A question with its reference answer.

    Example: ``PolicyPrompt("41..", "images.tar#512+4311", [user turn], "count", "3", 1.8)``.
    """

    image_id: str
    image: str
    context: Sequence[Message]
    """The turns before the answer, as the sample has them: without the request to reason."""
    task: str
    reference: str
    reference_score: float
    """f(I, reference), by the score model."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.task)


@dataclass(frozen=True)
class PolicyData:
    reasoning: list[PolicyPrompt]
    prompts: list[PolicyPrompt]
    heldout: list[PolicyPrompt]
    """On images that neither of the others shows."""
    dropped: Counter[str]
    """Samples left out because they cannot be used, by reason."""


def kind_of(task: str) -> Kind:
    """Which reward an answer to the task earns: every task but "open" and "grounding" has one short right answer."""
    if task == "open":
        return "open_ended"
    return "grounding" if task == "grounding" else "close_ended"


def select_prompts(rows: Sequence[Mapping[str, Any]], scorer: Scorer, recipe: RlPolicy, seed: int) -> PolicyData:
    """Chooses reasoning samples, prompts and held-out prompts, each half open-ended as far as there are such.

    Args:
        rows: instruction samples (IMAGE_TEXT_SAMPLE); only split "corpus" is used.

    Raises:
        DataError: there is nothing to choose prompts or held-out prompts from.
    """
    dropped: Counter[str] = Counter()
    usable = [row for row in rows if row["split"] == "corpus" and _usable(row, dropped)]
    wanted = (recipe.reasoning_samples, recipe.prompts, recipe.heldout_prompts)
    parts = _split_by_image(usable, wanted, np.random.default_rng(seed))
    reasoning, prompts, heldout = (
        _best(_score(_pool(part, count), scorer, dropped), count) for part, count in zip(parts, wanted, strict=True)
    )
    if not prompts or not heldout:
        raise DataError(
            f"{len(usable)} usable instruction samples of split 'corpus' gave {len(prompts)} prompts and "
            f"{len(heldout)} held-out prompts; at least one of each is needed: raise source_pairs.instruction_samples"
        )
    return PolicyData(reasoning, prompts, heldout, dropped)


def _usable(row: Mapping[str, Any], dropped: Counter[str]) -> bool:
    *context, answer = row["messages"]
    if not context or context[-1]["role"] != "user" or not answer["content"].strip():
        dropped["no_question_or_answer"] += 1
        return False
    if kind_of(row["task"]) == "grounding" and not read_boxes(answer["content"]):
        dropped["no_box"] += 1
        return False
    return True


def _split_by_image(
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[int], rng: np.random.Generator
) -> list[list[Mapping[str, Any]]]:
    """The rows in as many parts as there are wanted counts, sized like them, no image in two; order is shuffled."""
    images = sorted({row["image_id"] for row in rows})
    shuffled = [images[i] for i in rng.permutation(len(images))]
    edges = np.round(np.cumsum([0, *wanted]) / sum(wanted) * len(images)).astype(int)
    part_of = {image: part for part, (start, end) in enumerate(pairwise(edges)) for image in shuffled[start:end]}
    parts: list[list[Mapping[str, Any]]] = [[] for _ in wanted]
    for index in rng.permutation(len(rows)):
        parts[part_of[rows[index]["image_id"]]].append(rows[index])
    return parts


def _pool(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    return [row for of_half in _halves(rows, POOL * count) for row in of_half]


def _halves(rows: Sequence[Any], count: int) -> list[list[Any]]:
    """The first ``count`` rows, half open-ended; where one kind is too few the other fills up."""
    is_open = [kind_of(row["task"] if isinstance(row, Mapping) else row.task) == "open_ended" for row in rows]
    open_rows = [row for row, of_kind in zip(rows, is_open, strict=True) if of_kind]
    closed_rows = [row for row, of_kind in zip(rows, is_open, strict=True) if not of_kind]
    closed = min(len(closed_rows), max(count - count // 2, count - len(open_rows)))
    return [open_rows[: count - closed], closed_rows[:closed]]


def _score(rows: Sequence[Mapping[str, Any]], scorer: Scorer, dropped: Counter[str]) -> list[PolicyPrompt]:
    answers = [row["messages"][-1]["content"].strip() for row in rows]
    groups = [Group(row["image"], row["messages"][:-1], [a]) for row, a in zip(rows, answers, strict=True)]
    prompts = []
    for row, answer, ((score),) in zip(rows, answers, scorer.score(groups), strict=True):
        if score is None:
            dropped["not_scored"] += 1
            continue
        prompts.append(PolicyPrompt(row["image_id"], row["image"], row["messages"][:-1], row["task"], answer, score))
    return prompts


def _best(prompts: Sequence[PolicyPrompt], count: int) -> list[PolicyPrompt]:
    """The ``count`` best by their rank within their task, half open-ended, in a fixed order."""
    by_task: dict[str, list[PolicyPrompt]] = {}
    for prompt in prompts:
        by_task.setdefault(prompt.task, []).append(prompt)
    ranked = [
        (place / len(of_task), task, place, prompt)
        for task, of_task in by_task.items()
        for place, prompt in enumerate(sorted(of_task, key=lambda p: -p.reference_score))
    ]
    best_first = [prompt for *_, prompt in sorted(ranked, key=lambda entry: entry[:3])]
    return [prompt for of_half in _halves(best_first, count) for prompt in of_half]
