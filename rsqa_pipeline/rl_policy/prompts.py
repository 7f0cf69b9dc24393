"""Selects the policy's data: prompts with references, held-out prompts, and samples for the initial reasoning step.

The ground truth is never used for training; the score model decides which samples are good. The best samples within
each task are selected: scores are comparable only between similar questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rsqa_pipeline.boxes import read_boxes
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.prompt_length import overlong_prompt
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.preference_data.candidate import pair_split
from rsqa_pipeline.profile import RlPolicy
from rsqa_pipeline.records import Message, read_table, write_table
from rsqa_pipeline.score_model.scoring.scorer import Scorer

Kind = Literal["open_ended", "close_ended", "grounding"]
Rows = Sequence[Mapping[str, Any]]

PARTS = ("reasoning", "prompts", "heldout")
PROMPT_TABLE = pa.schema([("part", pa.string()), ("sample_id", pa.string()), ("reference_score", pa.float64())])
"""One row per selected sample: its part, its id in ``instruction_samples`` and the score model's score."""

POOL_FACTOR = 2
"""Number of samples scored per selected sample. Where the corpus has fewer, fewer are selected: the rest of the ranking
has wrong references."""


@dataclass(frozen=True)
class PolicyPrompt:
    """A question with its reference answer.

    Example: ``PolicyPrompt("c7..", "41..", "images.tar#512+4311", [user turn], "count", "3", 1.8)``.
    """

    sample_id: str
    image_id: str
    image: str
    context: Sequence[Message]
    """The turns before the answer as in the sample, without the instruction to reason."""
    task: str
    reference: str
    reference_score: float
    """f(I, reference), the score model's score."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.task)


@dataclass(frozen=True)
class PolicyData:
    reasoning: list[PolicyPrompt]
    prompts: list[PolicyPrompt]
    heldout: list[PolicyPrompt]
    """On images from which neither the VLM, nor the policy, nor the score model has learned."""
    dropped: Counter[str]
    """Number of unusable samples, by reason."""

    def write(self, path: Path) -> None:
        """Writes the selection as a PROMPT_TABLE; the texts stay in ``instruction_samples``."""
        rows = [
            {"part": part, "sample_id": prompt.sample_id, "reference_score": prompt.reference_score}
            for part in PARTS
            for prompt in getattr(self, part)
        ]
        write_table(path, PROMPT_TABLE, rows)


def read_prompts(path: Path, samples: Sequence[Mapping[str, Any]], part: str) -> list[PolicyPrompt]:
    """The prompts of one part of a PROMPT_TABLE, in its order, with their texts from ``samples``."""
    sample_of = {row["sample_id"]: row for row in samples}
    return [
        _prompt(sample_of[row["sample_id"]], row["reference_score"]) for row in read_table(path) if row["part"] == part
    ]


def _prompt(row: Mapping[str, Any], score: float) -> PolicyPrompt:
    *context, answer = row["messages"]
    return PolicyPrompt(
        row["sample_id"], row["image_id"], row["image"], context, row["task"], answer["content"].strip(), score
    )


def kind_of(task: str) -> Kind:
    """The kind of reward for a task: all tasks except "open" and "grounding" have one short correct answer."""
    if task == "open":
        return "open_ended"
    return "grounding" if task == "grounding" else "close_ended"


def select_prompts(
    rows: Sequence[Mapping[str, Any]], scorer: Scorer, config: RlPolicy, heldout_share: float, seed: int
) -> PolicyData:
    """Selects reasoning samples, prompts and held-out prompts; half of the prompts are open-ended if there are enough.

    Held-out prompts have the mix that GRPO trains on: where one half has too few, there are fewer of the other, too.

    Reasoning samples are of split "corpus", from all tasks as the corpus has them: the policy must not forget the tasks
    that it can do. Prompts are of split "preference", since the policy's VLM was fine-tuned on the corpus: of an answer
    that it has learned, GRPO can teach nothing, and a held-out reward on it measures nothing. Held-out prompts are on
    images of held-out preference pairs, from which the score model has not learned either.

    Args:
        rows: instruction samples (IMAGE_TEXT_SAMPLE).
        heldout_share: share of the preference pairs that are held out, ``preference_data.heldout_share``.

    Raises:
        DataError: no prompt or no held-out prompt could be selected.
    """
    dropped: Counter[str] = Counter()
    shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
    usable = [row for row in shuffled if _usable(row, dropped)]
    corpus = [row for row in usable if row["split"] == "corpus"]
    unseen = [row for row in usable if row["split"] == "preference"]
    reasoning = _best_part(_score(corpus[: POOL_FACTOR * config.reasoning_samples], scorer, dropped))
    of_split: dict[str, list[Mapping[str, Any]]] = {"train": [], "heldout": []}
    for row in unseen:
        of_split[pair_split(row["image_id"], heldout_share, seed)].append(row)
    pool = _half_open(of_split["train"], POOL_FACTOR * config.prompts)
    heldout_pool = _of_the_mix(of_split["heldout"], POOL_FACTOR * config.heldout_prompts, pool)
    prompts, heldout = (_best_part(_score(part, scorer, dropped)) for part in (pool, heldout_pool))
    if not prompts or not heldout:
        raise DataError(
            f"{len(unseen)} usable instruction samples of split 'preference' gave {len(prompts)} prompts and "
            f"{len(heldout)} held-out prompts; at least one of each is needed: raise source_pairs.instruction_samples, "
            "source_pairs.preference_share or preference_data.heldout_share"
        )
    return PolicyData(reasoning, prompts, heldout, dropped)


def _usable(row: Mapping[str, Any], dropped: Counter[str]) -> bool:
    *context, answer = row["messages"]
    if not context or context[-1]["role"] != "user" or not answer["content"].strip():
        dropped["no_question_or_answer"] += 1
        return False
    if overlong_prompt(context):
        dropped["prompt_too_long"] += 1
        return False
    if kind_of(row["task"]) == "grounding" and not read_boxes(answer["content"]):
        dropped["no_box"] += 1
        return False
    return True


def _half_open(rows: Rows, count: int) -> Rows:
    """The first ``count`` rows, half of them open-ended; if one half has too few rows, the other one is larger."""
    open_rows, closed_rows = _open_and_closed(rows)
    closed = min(len(closed_rows), max(count - count // 2, count - len(open_rows)))
    return [*open_rows[: count - closed], *closed_rows[:closed]]


def _of_the_mix(rows: Rows, count: int, pool: Rows) -> Rows:
    """At most ``count`` rows with the share of open-ended ones that ``pool`` has; fewer where one kind has too few."""
    parts = _open_and_closed(rows)
    shares = [len(part) / max(len(pool), 1) for part in _open_and_closed(pool)]
    possible = [len(part) / share for part, share in zip(parts, shares, strict=True) if share]
    count = min([count, *(int(most) for most in possible)])
    return [row for part, share in zip(parts, shares, strict=True) for row in part[: round(share * count)]]


def _open_and_closed(rows: Rows) -> tuple[Rows, Rows]:
    is_open = [kind_of(row["task"]) == "open_ended" for row in rows]
    open_rows = [row for row, of_kind in zip(rows, is_open, strict=True) if of_kind]
    closed_rows = [row for row, of_kind in zip(rows, is_open, strict=True) if not of_kind]
    return open_rows, closed_rows


def _score(rows: Sequence[Mapping[str, Any]], scorer: Scorer, dropped: Counter[str]) -> list[PolicyPrompt]:
    answers = [row["messages"][-1]["content"].strip() for row in rows]
    groups = [ScoringGroup(row["image"], row["messages"][:-1], [a]) for row, a in zip(rows, answers, strict=True)]
    prompts = []
    for row, ((score),) in zip(rows, scorer.score(groups), strict=True):
        if score is None:
            dropped["not_scored"] += 1
            continue
        prompts.append(_prompt(row, score))
    return prompts


def _best_part(prompts: Sequence[PolicyPrompt]) -> list[PolicyPrompt]:
    """The best 1 / `POOL_FACTOR` by their rank within their task, the best first: scores of different tasks are not
    comparable."""
    by_task: dict[str, list[PolicyPrompt]] = {}
    for prompt in prompts:
        by_task.setdefault(prompt.task, []).append(prompt)
    ranked = [
        (rank / len(of_task), task, rank, prompt)
        for task, of_task in by_task.items()
        for rank, prompt in enumerate(sorted(of_task, key=lambda p: -p.reference_score))
    ]
    return [prompt for *_, prompt in sorted(ranked, key=lambda entry: entry[:3])][: -(-len(ranked) // POOL_FACTOR)]
