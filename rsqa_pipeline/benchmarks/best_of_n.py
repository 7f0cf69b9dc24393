"""Best of N: the fine-tuned VLM answers N times and a selector keeps one answer (paper, best of N).

Selectors: score model, CLIP score, majority vote, a random pick, and an oracle that picks a right answer if there
is one. N answers are drawn once; the value at n < N is the mean over all subsets of n answers, see `selectors`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rsqa_pipeline.answer_matching import canonical
from rsqa_pipeline.benchmarks import selectors
from rsqa_pipeline.benchmarks.answers import ask, context_of, mark
from rsqa_pipeline.benchmarks.best_of_n_changes import CHANGE, change_rows, flags
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import ALL_TASKS, COMPARISON, Outcome, compare
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import base_model, load_vlm
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.plots import colour, new_panels, save
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, Metrics, write_table
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import hierarchical_mean
from rsqa_pipeline.tracking.run_logger import RunLogger

SELECTORS = ("score_model", "clip_score", "majority_vote", "random", "oracle")
SCORERS = ("score_model", "clip_score")
COMPARED = tuple(("score_model", other) for other in ("random", "majority_vote", "clip_score"))

CURVE = pa.schema(
    [
        ("selector", pa.string()),
        ("task", pa.string()),
        ("n", pa.int64()),  # answers to choose from
        ("value", pa.float64()),  # share of items answered right, in [0, 1], as are low and high
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("items", pa.int64()),  # items with a pick: those with an answer that the selector can judge
        ("no_pick", pa.float64()),  # expected share of draws of n answers without a pick, over all items
        ("gap_share", pa.float64()),  # of the way from random to oracle, over the same items; null where there is none
        ("kl", pa.float64()),  # log n - (n - 1) / n, in nats: bound on the distance from the sampling model
    ]
)
"""Example: ``{"selector": "score_model", "task": "count", "n": 8, "value": 0.71, "low": 0.64, "high": 0.78,
"items": 150, "no_pick": 0.0, "gap_share": 0.58, "kl": 1.2}``"""

Grades = Mapping[tuple[str, int], list[float | None]]
"""(selector, n) -> expected grade in [0, 1] of each item, in the order of the items; None without a pick."""

CANDIDATE = pa.schema(
    [
        ("item_id", pa.string()),
        ("task", pa.string()),
        ("place", pa.int64()),  # 0 is the first answer drawn
        ("text", pa.string()),
        ("correct", pa.float64()),
        ("score_model", pa.float64()),  # or its lower bound, as the profile says; null if the answer has none
        ("clip_score", pa.float64()),
        ("score_model_version", pa.string()),
        ("clip_version", pa.string()),
    ]
)
"""Example: ``{"item_id": "count-17", "task": "count", "place": 0, "text": "3", "correct": 1.0, "score_model":
2.1, "clip_score": 0.23, "score_model_version": "5be1c0..", "clip_version": "77aa01.."}``"""


@dataclass
class Answers:
    """The N answers to one item with their grades and scores (None if missing), all in the same order."""

    item: dict[str, Any]
    task: str
    context: list[Message]
    texts: list[str]
    correct: list[float]
    scores: dict[str, list[float | None]]


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, vlm: str) -> Metrics:
    """Writes ``curve``, ``changes``, ``comparisons``, ``candidates`` (parquet) and ``plots/best_of_n.png``.

    Raises:
        DataError: the item table has no item of any task with ``best_of_n``.
    """
    rules = settings.benchmarks.best_of_n
    tasks = read_items(inputs["benchmark_sets"], [task for task in load_tasks("vlm") if task.best_of_n])
    tasks = [(task, items[: rules.items]) for task, items in tasks]
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    drawn = draw_answers(inputs[vlm] / "model", tasks, settings)
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    clip = ClipScorer.load(base_model(inputs["base_models"], "clip"), settings.compute, settings.benchmarks.batch_size)
    add_scores(drawn, "score_model", scorer.lower_bounds if rules.bound else scorer.score)
    add_scores(drawn, "clip_score", clip.score)
    values = selector_values(drawn, rules.counts, settings.seed)
    curve = _curve(values, drawn, settings.benchmarks.bootstrap_resamples, settings.seed)
    write_table(out / "curve.parquet", CURVE, curve)
    versions = {"score_model_version": scorer.version, "clip_version": clip.version}
    write_table(out / "candidates.parquet", CANDIDATE, [row | versions for a in drawn for row in _candidate_rows(a)])
    gaps = _comparisons(values, drawn, max(rules.counts), settings.benchmarks.bootstrap_resamples, settings.seed)
    write_table(out / "comparisons.parquet", COMPARISON, gaps)
    bootstrap = (settings.benchmarks.bootstrap_resamples, settings.seed)
    images = [str(answers.item["image_id"]) for answers in drawn]
    compared = {key: grades for key, grades in values.items() if key[0] != "random"}  # it is the same for every n
    picked_scores = expected_scores(drawn, rules.counts)
    changes = change_rows(compared, picked_scores, items_of_tasks(drawn), images, *bootstrap)
    write_table(out / "changes.parquet", CHANGE, changes)
    _plot(out / "plots" / "best_of_n.png", curve)
    unscored = sum(score is None for answers in drawn for score in answers.scores["score_model"])
    curves = {f"{row['selector']}/{row['task']}/best_of_{row['n']}": float(row["value"]) for row in curve}
    return {**curves, **flags(changes), "unscored_candidates": float(unscored)}


def draw_answers(folder: Path, tasks: TaskItems, settings: Profile) -> list[Answers]:
    """N sampled and graded answers per item; N is the largest of the profile's counts."""
    rules, config = settings.benchmarks.best_of_n, settings.benchmarks
    vlm, max_answers = load_vlm(folder, settings.compute), max(rules.counts)
    drawn = []
    for task, items in tqdm(tasks, desc="best of N answers", unit="task"):
        contexts = [context_of(task, item) for item in items]
        replies = ask(
            vlm,
            contexts,
            [item["image"] for item in items],
            rules.sampling.max_new_tokens,
            max(1, config.batch_size // max_answers),
            settings.seed,
            rules.sampling,
            max_answers,
        )
        for item, context, texts in zip(items, contexts, replies, strict=True):
            correct = [mark(task, item, text) for text in texts]
            drawn.append(Answers(item, task.name, context, texts, correct, {}))
    return drawn


def add_scores(
    drawn: Sequence[Answers], name: str, score: Callable[[Sequence[ScoringGroup]], list[list[float | None]]]
) -> None:
    """Scores each distinct answer once. The answers to one item are scored together, so its image is encoded once."""
    groups = [ScoringGroup(a.item["image"], a.context, list(dict.fromkeys(a.texts))) for a in drawn]
    for answers, group, scores in zip(drawn, groups, score(groups), strict=True):
        by_text = dict(zip(group.candidates, scores, strict=True))
        answers.scores[name] = [by_text[text] for text in answers.texts]


def selector_values(
    drawn: Sequence[Answers], counts: Sequence[int], seed: int
) -> dict[tuple[str, int], list[float | None]]:
    """The `Grades` of every selector. Boxes vote by overlap, other answers by equality."""
    values: dict[tuple[str, int], list[float | None]] = {(name, n): [] for name in SELECTORS for n in sorted(counts)}
    for answers in drawn:
        votes = [canonical(text) for text in answers.texts]
        for n in sorted(counts):
            values["random", n].append(selectors.random_pick(answers.correct))
            values["oracle", n].append(selectors.any_right(answers.correct, n))
            values["majority_vote", n].append(
                selectors.majority_box(answers.texts, answers.correct, n, seed)
                if answers.item.get("boxes")
                else selectors.majority_vote(votes, answers.correct, n)
            )
            for name in SCORERS:
                values[name, n].append(selectors.best_by_score(answers.scores[name], answers.correct, n))
    return values


def expected_scores(drawn: Sequence[Answers], counts: Sequence[int]) -> dict[tuple[str, int], list[float | None]]:
    """(scorer, n) -> expected score of each item's picked answer; None without a pick."""
    return {
        (name, n): [
            selectors.best_by_score(found := answers.scores[name], [score or 0.0 for score in found], n)
            for answers in drawn
        ]
        for name in SCORERS
        for n in sorted(counts)
    }


def items_of_tasks(drawn: Sequence[Answers]) -> dict[str, list[int]]:
    """Task -> positions of its items, and `ALL_TASKS` -> all of them."""
    tasks: dict[str, list[int]] = {}
    for index, answers in enumerate(drawn):
        tasks.setdefault(answers.task, []).append(index)
    return {**tasks, ALL_TASKS: list(range(len(drawn)))}


def _curve(values: Grades, drawn: Sequence[Answers], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of `CURVE`: for each task, then for all tasks together. A selector without any pick has no row."""
    rows = []
    for task, chosen in items_of_tasks(drawn).items():
        for (selector, n), grades in values.items():
            picked = [index for index in chosen if grades[index] is not None]
            if not picked:
                continue
            images = [str(drawn[index].item["image_id"]) for index in picked]
            mean = hierarchical_mean(
                np.array([[grades[index] for index in picked]], dtype=float), resamples, seed, images
            )
            floor, ceiling = (
                float(np.mean([values[bound, n][index] for index in picked])) for bound in ("random", "oracle")
            )
            rows.append(
                {"selector": selector, "task": task, "n": n, "value": mean.value, "low": mean.low, "high": mean.high,
                 "items": mean.n, "kl": math.log(n) - (n - 1) / n,
                 "no_pick": float(np.mean([_no_pick(drawn[index], selector, n) for index in chosen])),
                 "gap_share": (mean.value - floor) / (ceiling - floor) if ceiling - floor > 1e-9 else None}
            )  # fmt: skip
    return rows


def _no_pick(answers: Answers, selector: str, n: int) -> float:
    return selectors.no_pick(answers.scores[selector], n) if selector in SCORERS else 0.0


def _comparisons(values: Grades, drawn: Sequence[Answers], n: int, resamples: int, seed: int) -> list[dict[str, Any]]:
    """The score model against other selectors at the largest n, paired over the items where both have a pick."""
    rows = []
    for pair in COMPARED:
        outcomes = [
            Outcome(selector, answers.item["item_id"], answers.item["image_id"], task, f"best_of_{n}", None, grade)
            for answers, *grades in zip(drawn, *(values[name, n] for name in pair), strict=True)
            if None not in grades
            for selector, grade in zip(pair, grades, strict=True)
            for task in (answers.task, ALL_TASKS)
        ]
        rows += compare(outcomes, [pair], resamples, seed) if outcomes else []
    return rows


def _candidate_rows(answers: Answers) -> list[dict[str, Any]]:
    return [
        {
            "item_id": answers.item["item_id"],
            "task": answers.task,
            "place": index,
            "text": text,
            "correct": answers.correct[index],
            **{name: scores[index] for name, scores in answers.scores.items()},
        }
        for index, text in enumerate(answers.texts)
    ]


def _plot(path: Path, curve: Sequence[Mapping[str, Any]]) -> None:
    """One panel per task and one for all tasks: share right over n, one line with a 95 % band per selector."""
    tasks = list(dict.fromkeys(row["task"] for row in curve))
    figure, panels = new_panels(len(tasks), 2.9 * len(tasks) + 0.6, 3.8)
    for axes, task in zip(panels, tasks, strict=True):
        for selector in SELECTORS:
            rows = [row for row in curve if row["task"] == task and row["selector"] == selector]
            counts = [row["n"] for row in rows]
            tint, label = colour(selector), selector.replace("_", " ")
            axes.plot(counts, [row["value"] for row in rows], marker="o", color=tint, label=label)
            axes.fill_between(
                counts,
                [row["low"] for row in rows],
                [row["high"] for row in rows],
                color=tint,
                alpha=0.1,
                linewidth=0,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.set_title(task.replace("_", " "))
        axes.set_xlabel("answers to choose from")
    panels[0].set_ylabel("share right, 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SELECTORS))
    save(figure, path)
