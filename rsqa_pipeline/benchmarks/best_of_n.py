"""Best of N: a VLM answers N times and a selector keeps one answer (paper, best of N).

Selectors: score model, CLIP score, mean log-probability under the VLM itself, majority vote, a random pick, and an
oracle that picks the best answer. N answers are drawn once; the value at n < N is the mean over all subsets of n
answers, see `selectors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rsqa_pipeline.answer_matching import canonical
from rsqa_pipeline.benchmarks import selectors
from rsqa_pipeline.benchmarks.best_of_n_changes import CHANGE, change_rows, flags
from rsqa_pipeline.benchmarks.drawn_answers import (
    CANDIDATE,
    Answers,
    add_scores,
    clip_rate,
    draw_answers,
    score_model_rate,
)
from rsqa_pipeline.benchmarks.gap_share import gap_share
from rsqa_pipeline.benchmarks.items import read_items
from rsqa_pipeline.benchmarks.reply_format import PLAIN, REASONING
from rsqa_pipeline.benchmarks.results import ALL_TASKS, COMPARISON, Outcome, compare
from rsqa_pipeline.benchmarks.selectors import SCORERS, SELECTORS, Grades
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import base_model, load_clip, load_vlm
from rsqa_pipeline.plots import colour, new_panels, save
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics, write_table
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import hierarchical_mean
from rsqa_pipeline.tracking.run_logger import RunLogger

COMPARED = tuple(("score_model", other) for other in ("random", "majority_vote", "clip_score", "mean_log_probability"))

CURVE = pa.schema(
    [
        ("vlm", pa.string()),  # who answers: a subset, for the VLM fine-tuned on it, or a policy
        ("selector", pa.string()),
        ("task", pa.string()),
        ("n", pa.int64()),  # answers to choose from
        ("value", pa.float64()),  # mean grade: share right, or ROUGE-L of captions; in [0, 1], as are low and high
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("items", pa.int64()),  # items with a pick: those with an answer that the selector can judge
        ("no_pick", pa.float64()),  # expected share of draws of n answers without a pick, over all items
        ("gap_share", pa.float64()),  # of the way from random to oracle, over the same items; null where there is none
        ("gap_low", pa.float64()),
        ("gap_high", pa.float64()),
        ("kl", pa.float64()),  # log n - (n - 1) / n, in nats: bound on the distance from the sampling model
        ("tokens", pa.float64()),  # generated for n answers to an item, mean over the same items
        ("selector_tokens", pa.float64()),  # of these answers that the selector reads; 0 for one without a model
    ]
)
"""Example: ``{"vlm": "all", "selector": "score_model", "task": "count", "n": 8, "value": 0.71, "low": 0.64,
"high": 0.78, "items": 150, "no_pick": 0.0, "gap_share": 0.58, "gap_low": 0.51, "gap_high": 0.66, "kl": 1.2,
"tokens": 16.4, "selector_tokens": 5.2}``"""


def run(
    inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, vlm: str, policy: bool
) -> Metrics:
    """Writes ``curve``, ``changes``, ``comparisons``, ``candidates`` (parquet) and ``plots/best_of_n.png``.

    Args:
        vlm: input whose model answers; of a fine-tuned one, the first seed's.
        policy: whether it is a policy, which is asked with the reasoning prompt that it was trained with.

    Raises:
        DataError: the item table has no item of any task with ``best_of_n``.
    """
    rules = settings.benchmarks.best_of_n
    tasks = read_items(inputs["benchmark_sets"], [task for task in load_tasks("vlm") if task.best_of_n])
    tasks = [(task, items[: rules.items]) for task, items in tasks]
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    by_score_model = score_model_rate(scorer, rules.bound is not None)
    model = load_vlm(inputs[vlm] / "model", settings.compute)
    drawn = draw_answers(model, tasks, REASONING if policy else PLAIN, settings)
    add_scores(drawn, "score_model", by_score_model)
    clip = load_clip(base_model(inputs["base_models"], "clip"), settings.compute)
    add_scores(drawn, "clip_score", clip_rate(clip, ClipScorer(clip, settings.benchmarks.batch_size)))
    versions = {"vlm_version": model.version, "score_model_version": scorer.version, "clip_version": clip.version}
    write_table(out / "candidates.parquet", CANDIDATE, [row for answers in drawn for row in answers.rows(versions)])
    bootstrap = (settings.benchmarks.bootstrap_resamples, settings.seed)
    values = selector_values(drawn, rules.counts, settings.seed)
    curve = curve_rows(values, drawn, *bootstrap)
    write_table(out / "curve.parquet", CURVE, [{"vlm": vlm.removeprefix("vlm_"), **row} for row in curve])
    gaps = _comparisons(values, drawn, max(rules.counts), *bootstrap)
    write_table(out / "comparisons.parquet", COMPARISON, gaps)
    images = [str(answers.item["image_id"]) for answers in drawn]
    compared = {key: grades for key, grades in values.items() if key[0] != "random"}  # it is the same for every n
    picked_scores = expected_scores(drawn, rules.counts)
    changes = change_rows(compared, picked_scores, items_of_tasks(drawn), images, *bootstrap)
    write_table(out / "changes.parquet", CHANGE, changes)
    _plot(out / "plots" / "best_of_n.png", curve)
    unscored = sum(score is None for answers in drawn for score in answers.scores["score_model"])
    curves = {f"{row['selector']}/{row['task']}/best_of_{row['n']}": float(row["value"]) for row in curve}
    return {**curves, **flags(changes), "unscored_candidates": float(unscored)}


def selector_values(drawn: Sequence[Answers], counts: Sequence[int], seed: int) -> Grades:
    """The `Grades` of every selector. Boxes vote by overlap, short answers by equality, and captions, of which hardly
    any two are equal, not at all."""
    values: dict[tuple[str, int], list[float | None]] = {(name, n): [] for name in SELECTORS for n in sorted(counts)}
    for answers in drawn:
        for n in sorted(counts):
            values["random", n].append(selectors.random_pick(answers.correct))
            values["oracle", n].append(selectors.best_grade(answers.correct, n))
            values["majority_vote", n].append(_vote(answers, n, seed))
            for name in SCORERS:
                values[name, n].append(selectors.best_by_score(answers.scores[name], answers.correct, n))
    return values


def _vote(answers: Answers, n: int, seed: int) -> float | None:
    texts = [text or "" for text in answers.texts]
    if not answers.right_or_wrong:
        return None
    if answers.item.get("boxes"):
        return selectors.majority_box(texts, answers.correct, n, seed)
    return selectors.majority_vote([canonical(text) for text in texts], answers.correct, n)


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
    """Task -> positions of its items, and `ALL_TASKS` -> those of the tasks whose answers are right or wrong."""
    tasks: dict[str, list[int]] = {}
    for index, answers in enumerate(drawn):
        tasks.setdefault(answers.task, []).append(index)
    every = [index for index, answers in enumerate(drawn) if answers.right_or_wrong]
    return {**tasks, ALL_TASKS: every} if every else tasks


def curve_rows(values: Grades, drawn: Sequence[Answers], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of `CURVE` without ``vlm``: each task, then all of them. A selector without any pick has none."""
    rows = []
    for task, chosen in items_of_tasks(drawn).items():
        for (selector, n), grades in values.items():
            picked = [index for index in chosen if grades[index] is not None]
            if not picked:
                continue
            images = [str(drawn[index].item["image_id"]) for index in picked]
            own, floor, ceiling = (
                np.array([values[name, n][index] for index in picked], dtype=float)
                for name in (selector, "random", "oracle")
            )
            mean = hierarchical_mean(own[None], resamples, seed, images)
            share = gap_share(own, floor, ceiling, resamples, seed, images)
            generated = n * float(np.mean([np.mean(drawn[index].generated) for index in picked]))
            read = float(np.mean([drawn[index].read_tokens(selector, n) for index in picked]))
            rows.append(
                {"selector": selector, "task": task, "n": n, "value": mean.value, "low": mean.low, "high": mean.high,
                 "items": mean.n, "no_pick": float(np.mean([_no_pick(drawn[index], selector, n) for index in chosen])),
                 "gap_share": share and share.value, "gap_low": share and share.low, "gap_high": share and share.high,
                 "kl": math.log(n) - (n - 1) / n, "tokens": generated, "selector_tokens": read}
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
            if task != ALL_TASKS or answers.right_or_wrong
        ]
        rows += compare(outcomes, [pair], resamples, seed) if outcomes else []
    return rows


def _plot(path: Path, curve: Sequence[Mapping[str, Any]]) -> None:
    """One panel per task and one for all tasks: mean grade over n, one line with a 95 % band per selector."""
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
    panels[0].set_ylabel("mean grade, 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SELECTORS))
    save(figure, path)
