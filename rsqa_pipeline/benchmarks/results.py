"""Turns outcomes into tables: every metric with its interval and chance level, every comparison paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rsqa_pipeline.benchmarks.chance import chance_level
from rsqa_pipeline.benchmarks.items import TaskItems
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.finetuned_models.seeds import seed_folders
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.plots import interval_bars, new_figure, save
from rsqa_pipeline.records import Metrics, write_table
from rsqa_pipeline.statistics import Interval, hierarchical_mean, mcnemar, wilson

PREDICTION = pa.schema(
    [
        ("model", pa.string()),
        ("item_id", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("prediction", pa.string()),  # the whole reply, a class name, or ranks
        ("seed", pa.int64()),  # training seed; missing for a model that was not trained here
        ("correct", pa.float64()),  # 0 or 1; a share if the item has several queries
    ]
)
"""Example: ``{"model": "base", "item_id": "count-17", "task": "count", "metric": "accuracy", "prediction":
"3", "seed": None, "correct": 1.0}``"""

RESULT = pa.schema(
    [
        ("model", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),  # in [0, 1], as are low, high and chance
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),  # items
        ("chance", pa.float64()),
    ]
)
"""Example: ``{"model": "all", "task": "count", "metric": "accuracy", "value": 0.61, "low": 0.55, "high":
0.66, "n": 300, "chance": 0.27}``"""

COMPARISON = pa.schema(
    [
        ("task", pa.string()),
        ("metric", pa.string()),
        ("model", pa.string()),
        ("baseline", pa.string()),
        ("difference", pa.float64()),  # model minus baseline over the same items, in [-1, 1]
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p_value", pa.float64()),  # exact McNemar; sign test for fractional grades
    ]
)
"""Example: ``{"task": "count", "metric": "accuracy", "model": "best_third", "baseline": "all",
"difference": 0.07, "low": 0.02, "high": 0.12, "p_value": 0.008}``"""

ALL_TASKS = "all_tasks"
"""Task name of the row over the items of all tasks."""


@dataclass(frozen=True)
class Outcome:
    """Grade of one model on one item under one metric."""

    model: str
    item_id: str
    image_id: str
    """Items about one image are resampled together."""
    task: str
    metric: str
    prediction: str | None
    correct: float
    seed: int | None = None
    """Training seed of the model; None for one that was not trained here."""


@dataclass(frozen=True)
class MetricInfo:
    """How a metric of a task is summarised: its chance level in [0, 1], and whether items are only right or wrong."""

    chance: float
    binary: bool


MetricInfos = Mapping[tuple[str, str], MetricInfo]


def rows_of(
    inputs: Mapping[str, Path], family: Literal["clip", "vlm"], models: Mapping[str, str], seeds: Sequence[int]
) -> list[tuple[str, int | None, str]]:
    """(row, training seed, folder or hub id) of every model to measure: the base, then each model once per seed."""
    found: list[tuple[str, int | None, str]] = [("base", None, base_model(inputs["base_models"], family))]
    for name, asset in models.items():
        found += [(name, seed, str(folder)) for seed, folder in seed_folders(inputs[asset], seeds).items()]
    return found


def pooled(outcomes: Sequence[Outcome], metric: str) -> list[Outcome]:
    """The same outcomes under the task `ALL_TASKS` and one metric: each counts once, regardless of task and metric."""
    return [
        replace(outcome, task=ALL_TASKS, metric=metric, item_id=f"{outcome.task}/{outcome.metric}/{outcome.item_id}")
        for outcome in outcomes
    ]


def summarise(outcomes: Sequence[Outcome], infos: MetricInfos, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of `RESULT`, in the order of the outcomes: the mean over seeds and items, with an interval over seeds and
    images."""
    rows = []
    frame = _frame(outcomes)
    for names, group in frame.groupby(["model", "task", "metric"], sort=False):
        model, task, metric = (str(name) for name in cast(tuple[str, ...], names))
        info = infos[task, metric]
        interval = _interval(_by_seed(group), _images(group), info.binary, resamples, seed)
        rows.append({"model": model, "task": task, "metric": metric, **asdict(interval), "chance": info.chance})
    return rows


def compare(
    outcomes: Sequence[Outcome], pairs: Sequence[Sequence[str]], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of `COMPARISON` for every (model, baseline) that are both in the outcomes, joined by item.

    Models with several seeds are paired seed by seed, in order; one with a single seed is paired with each of them.
    """
    rows = []
    for (task, metric), group in _frame(outcomes).groupby(["task", "metric"], sort=False):
        grades = {str(model): _by_seed(of_model) for model, of_model in group.groupby("model", sort=False)}
        images = _images(group)
        for model, baseline in pairs:
            if model in grades and baseline in grades:
                a, b = grades[model], grades[baseline]
                gap = hierarchical_mean(a - b, resamples, seed, images)
                names = {"task": task, "metric": metric, "model": model, "baseline": baseline}
                bounds = {"difference": gap.value, "low": gap.low, "high": gap.high}
                rows.append({**names, **bounds, "p_value": mcnemar(a.mean(axis=0), b.mean(axis=0))})
    return rows


def _frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    return pd.DataFrame([asdict(outcome) for outcome in outcomes]).astype({"seed": "Int64"}).fillna({"seed": -1})


def _by_seed(outcomes: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(seeds, items) grades of one model under one metric, items sorted by id, seeds in their order."""
    order = outcomes["seed"].unique()
    table = outcomes.pivot(index="seed", columns="item_id", values="correct").sort_index(axis=1)
    return table.loc[order].to_numpy(dtype=float)


def _images(outcomes: pd.DataFrame) -> list[str]:
    """Image of each item, items sorted by id."""
    return [str(image) for image in outcomes.drop_duplicates("item_id").sort_values("item_id")["image_id"]]


def metric_infos(tasks: TaskItems) -> dict[tuple[str, str], MetricInfo]:
    """How each task's metrics are summarised, by (task, metric)."""
    return {
        (task.name, metric.name): MetricInfo(chance_level(task, metric, items), task.interval == "wilson")
        for task, items in tasks
        for metric in task.metrics
    }


def write_results(
    out: Path,
    outcomes: Sequence[Outcome],
    results: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> Metrics:
    """Writes predictions, results and comparisons; returns ``model/task/metric`` -> value."""
    write_table(out / "predictions.parquet", PREDICTION, [asdict(outcome) for outcome in outcomes])
    write_table(out / "results.parquet", RESULT, results)
    write_table(out / "comparisons.parquet", COMPARISON, comparisons)
    values = {f"{row['model']}/{row['task']}/{row['metric']}": float(row["value"]) for row in results}
    gaps = {
        f"{row['model']}_minus_{row['baseline']}/{row['task']}/{row['metric']}": float(row["difference"])
        for row in comparisons
    }
    return {**values, **gaps}


def plot_results(
    path: Path,
    results: Sequence[Mapping[str, Any]],
    shown: Sequence[tuple[str, str, str]],
    compared: Compared,
) -> None:
    """Grouped bars: one group per metric, one bar per model, with 95 % intervals and each group's chance level.

    Args:
        shown: (task, metric, label) of each group, from left to right.
    """
    models = list(dict.fromkeys(row["model"] for row in results))
    width = 0.8 / len(models)
    figure, axes = new_figure(max(7.0, 1.35 * len(shown) + 2.0), 4.4)
    for position, model in enumerate(models):
        rows = [_row(results, model, task, metric) for task, metric, _ in shown]
        at = [group - 0.4 + width * (position + 0.5) for group in range(len(shown))]
        values = [row["value"] for row in rows]
        axes.bar(at, values, width * 0.92, color=compared.colour(model), label=compared.label(model))
        interval_bars(axes, at, values, [row["low"] for row in rows], [row["high"] for row in rows])
    for group, (task, metric, _) in enumerate(shown):
        level = _row(results, models[0], task, metric)["chance"]
        # only one legend entry: matplotlib leaves out labels that begin with an underscore
        label = "chance" if group == 0 else "_chance"
        axes.hlines(level, group - 0.45, group + 0.45, colors="black", linestyles="dashed", linewidth=1.3, label=label)
    axes.set_xticks(range(len(shown)), [label for _, _, label in shown])
    axes.set_ylim(0, 1)
    axes.set_ylabel("share right, 95 % interval")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside lower center", ncols=min(4, len(models) + 1))
    save(figure, path)


def _row(results: Sequence[Mapping[str, Any]], model: str, task: str, metric: str) -> Mapping[str, Any]:
    wanted = (model, task, metric)
    return next(row for row in results if (row["model"], row["task"], row["metric"]) == wanted)


def _interval(
    grades: npt.NDArray[np.float64], images: Sequence[str], binary: bool, resamples: int, seed: int
) -> Interval:
    """Interval of a (seeds, items) table: Wilson's for right or wrong items on different images under one seed, else by
    bootstrap."""
    if binary and len(grades) == 1 and len(set(images)) == len(images):
        return wilson(round(grades.sum()), grades.size)
    return hierarchical_mean(grades, resamples, seed, images)
