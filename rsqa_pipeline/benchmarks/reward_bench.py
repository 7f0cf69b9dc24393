"""The reward bench: does a scorer put a right text above texts with one known fault?

Each item is a set of four texts about an image: one right, three wrong by the same kind of fault; or a published pair.
``pairs`` is the share of the wrong texts that the right one beats, ``four_way`` whether it beats all three. A tie is
not a win. The score model and CLIP score rate the same texts; intervals resample images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import pyarrow as pa

from rsqa_pipeline.benchmarks.chance import chance_level
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import (
    ALL_TASKS,
    MetricInfo,
    Outcome,
    compare,
    metric_infos,
    pooled,
    summarise,
    write_results,
)
from rsqa_pipeline.benchmarks.task import BenchmarkTask, Metric, function_of, load_tasks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.plots import INK, colour, new_panels, save
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Message, Metrics, write_table
from rsqa_pipeline.score_model.pairs import GroupScorer
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger

SCORERS = ("score_model", "clip_score")

TEXT = pa.schema(
    [
        ("item_id", pa.string()),
        ("task", pa.string()),
        ("image_id", pa.string()),
        ("image", pa.string()),
        ("question", pa.string()),  # missing for captions
        ("text", pa.string()),
        ("right", pa.bool_()),
        ("score_model", pa.float64()),  # missing if the text could not be scored
        ("clip_score", pa.float64()),
        ("score_model_version", pa.string()),
        ("clip_version", pa.string()),
    ]
)
"""Example: ``{"item_id": "reward_count-2000017", "task": "reward_count", "image_id": "7a..", "image":
"images.tar#512+3920", "question": None, "text": "two white ships are moored on the left.", "right": True,
"score_model": 2.1, "clip_score": 0.23, "score_model_version": "5be1c0..", "clip_version": "77aa01.."}``"""


@dataclass(frozen=True)
class ScoredSet:
    """An item with its texts' scores by each scorer, in the order of the texts; None where there is no score."""

    task: BenchmarkTask
    item: dict[str, Any]
    scores: dict[str, list[float | None]]

    @property
    def complete(self) -> bool:
        return all(score is not None for scores in self.scores.values() for score in scores)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``results``, ``comparisons``, ``predictions``, ``texts``, ``quarantine`` (parquet) and
    ``plots/accuracy.png``.

    ``sets/<task>`` counts the items of each kind of fault: 0 for a kind that the source's texts do not allow. A set in
    which any scorer lacks a score is quarantined, for all scorers.

    Raises:
        DataError: the item table has no item of any kind, or none can be scored.
    """
    config, known = settings.benchmarks, load_tasks("scorer")
    tasks = read_items(inputs["benchmark_sets"], known)
    for task, _ in tasks:
        function_of(task, "marker", MARKERS)  # an unknown name is found before any model is loaded
    logger.log_params({f"{task.name}.version": task.version for task, _ in tasks})
    model = Scorer.load(inputs["score_model"] / "model", settings.compute)
    clip = ClipScorer.load(base_model(inputs["base_models"], "clip"), settings.compute, config.batch_size)
    sets = score_sets(tasks, dict(zip(SCORERS, (model, clip), strict=True)))
    complete = [scored for scored in sets if scored.complete]
    if not complete:
        raise DataError(f"{inputs['benchmark_sets']}: none of {len(sets)} sets could be scored; see its images")
    outcomes = [outcome for scored in complete for outcome in outcomes_of(scored)]
    infos = metric_infos(tasks)
    counted = list(outcomes)
    widest = max((task for task, _ in tasks), key=lambda task: len(task.metrics))
    for metric in widest.metrics:
        counted += pooled([outcome for outcome in outcomes if outcome.metric == metric.name], metric.name)
        infos[ALL_TASKS, metric.name] = MetricInfo(chance_level(widest, metric, []), binary=False)
    results = summarise(counted, infos, config.bootstrap_resamples, settings.seed)
    differences = compare(counted, [SCORERS], config.bootstrap_resamples, settings.seed)
    figures = write_results(out, outcomes, results, differences)
    versions = {"score_model_version": model.version, "clip_version": clip.version}
    write_table(out / "texts.parquet", TEXT, [row | versions for scored in sets for row in _text_rows(scored)])
    plot_bench(out / "plots" / "accuracy.png", results, widest.metrics)
    items_of = {task.name: len(items) for task, items in tasks}
    counts = {f"sets/{task.name}": float(items_of.get(task.name, 0)) for task in known}
    return {**figures, **counts, **_quarantine(out, sets).metrics(len(complete))}


def score_sets(tasks: TaskItems, scorers: Mapping[str, GroupScorer]) -> list[ScoredSet]:
    """Scores every text once per image and question: sets about one image share its encoding and their equal texts."""
    texts: dict[tuple[str, str | None], dict[str, None]] = {}
    for _, items in tasks:
        for item in items:
            texts.setdefault((item["image"], item["question"]), {}).update(dict.fromkeys(item["choices"]))
    groups = [ScoringGroup(image, _context(question), list(of)) for (image, question), of in texts.items()]
    by_text = {
        name: {
            key: dict(zip(group.candidates, scores, strict=True))
            for key, group, scores in zip(texts, groups, scorer.score(groups), strict=True)
        }
        for name, scorer in scorers.items()
    }
    return [
        ScoredSet(
            task,
            item,
            {
                name: [of[item["image"], item["question"]][text] for text in item["choices"]]
                for name, of in by_text.items()
            },
        )
        for task, items in tasks
        for item in items
    ]


def outcomes_of(scored: ScoredSet) -> list[Outcome]:
    """Grades of a complete set by every scorer and metric. The prediction is the text with the highest score."""
    mark = function_of(scored.task, "marker", MARKERS)
    outcomes = []
    for name, values in scored.scores.items():
        of_text = {text: value for text, value in zip(scored.item["choices"], values, strict=True) if value is not None}
        right = of_text.pop(scored.item["answer"])
        won = [right > wrong for wrong in of_text.values()]
        best = scored.item["answer"] if all(won) else max(of_text, key=of_text.__getitem__)
        outcomes += [
            Outcome(
                name,
                scored.item["item_id"],
                scored.item["image_id"],
                scored.task.name,
                metric.name,
                best,
                mark(metric, won),
            )
            for metric in scored.task.metrics
        ]
    return outcomes


def right_text_wins(metric: Metric, won: Sequence[bool]) -> float:
    """Share of the ways to choose ``metric.rivals`` of the wrong texts in which the right text beats all of them.

    Args:
        won: whether the right text beats each wrong one; at least ``metric.rivals`` of them.
    """
    return comb(sum(won), metric.rivals) / comb(len(won), metric.rivals)


MARKERS = {"right_text_wins": right_text_wins}
"""Mark in [0, 1] of a scorer on a set, by name."""


def _context(question: str | None) -> list[Message]:
    return [] if question is None else [Message(role="user", content=question)]


def _text_rows(scored: ScoredSet) -> list[dict[str, Any]]:
    item = scored.item
    return [
        {
            **{column: item[column] for column in ("item_id", "task", "image_id", "image", "question")},
            "text": text,
            "right": text == item["answer"],
            **{name: values[place] for name, values in scored.scores.items()},
        }
        for place, text in enumerate(item["choices"])
    ]


def _quarantine(out: Path, sets: Sequence[ScoredSet]) -> Quarantine:
    quarantine = Quarantine("reward_bench")
    for scored in sets:
        if not scored.complete:
            without = ", ".join(name for name, scores in scored.scores.items() if None in scores)
            quarantine.add(scored.item["item_id"], "not_scored", f"{without}: no score of at least one of the texts")
    quarantine.write(out)
    return quarantine


def plot_bench(path: Path, results: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> None:
    """One panel per metric: accuracy by kind of fault, one bar per scorer, with 95 % intervals and chance."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    figure, panels = new_panels(len(metrics), 7.4, 5.4)
    for axes, metric in zip(panels, metrics, strict=True):
        for offset, scorer in zip((-0.2, 0.2), SCORERS, strict=True):
            rows = [row for row in results if (row["model"], row["metric"]) == (scorer, metric.name)]
            at = [tasks.index(row["task"]) + offset for row in rows]
            values = [row["value"] for row in rows]
            axes.barh(at, values, height=0.38, color=colour(scorer), label=scorer.replace("_", " "))
            for position, row in zip(at, rows, strict=True):
                axes.plot([row["low"], row["high"]], [position, position], color=INK, linewidth=1.4)
        level = next(row["chance"] for row in results if row["metric"] == metric.name)
        axes.axvline(level, color=colour("random"), linestyle="--", linewidth=1.4, label="chance")
        labels = [task.removeprefix("reward_").replace("_", " ") for task in tasks]
        axes.set_yticks(range(len(tasks)), labels if axes is panels[0] else [])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_title(metric.label or metric.name)
        axes.set_xlabel("share right")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    save(figure, path)
