"""How the tuned models answer now, against those of the base commit on the same items."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from rsqa_pipeline.benchmarks.results import Outcome, compare
from rsqa_pipeline.benchmarks.task import ModelKind, load_tasks
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.retraining.baseline import Baseline
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.statistics import Interval
from rsqa_pipeline.versions import folder_version

FAMILIES: tuple[ModelKind, ...] = ("vlm", "clip")
ITEMS = "benchmark_sets"


@dataclass(frozen=True)
class BenchmarkChange:
    """One model on one task, before and now."""

    family: ModelKind
    task: str
    metric: str
    """The task's main metric."""
    before: float
    now: float
    difference: Interval
    """Now minus before over the same items, with a bootstrap over images; grades are means over training seeds."""


def benchmark_changes(profile: Profile, baseline: Baseline) -> tuple[list[BenchmarkChange], list[str]]:
    """Changes of the models tuned on the main subset, and notes on what could not be compared.

    Raises:
        DataError: a result of the base commit is in neither the DVC cache nor its remote.
    """
    assets, versions = assets_of(profile), baseline.versions()
    items = assets[ITEMS].folder(profile)
    found: list[BenchmarkChange] = []
    notes: list[str] = []
    for family in FAMILIES:
        name = f"{family}_benchmark"
        folder = assets[name].folder(profile)
        if not folder.is_dir() or versions.get(name) == folder_version(folder):
            notes.append(f"{name}: the result of the base commit")
        elif name not in versions:
            notes.append(f"{name}: the base commit recorded no result")
        elif versions.get(ITEMS) != folder_version(items):
            notes.append(f"{name}: other test items than at the base commit, so the models are not compared")
        else:
            image_of = {row["item_id"]: row["image_id"] for row in read_table(items / "items.parquet")}
            with tempfile.TemporaryDirectory() as scratch:
                before = read_table(baseline.fetch(folder, Path(scratch)) / "predictions.parquet")
            now = read_table(folder / "predictions.parquet")
            found += _changes(family, before, now, image_of, profile)
    return found, notes


def _changes(
    family: ModelKind,
    before: Sequence[dict[str, Any]],
    now: Sequence[dict[str, Any]],
    image_of: dict[str, str],
    profile: Profile,
) -> list[BenchmarkChange]:
    metrics = {(task.name, task.metrics[0].name) for task in load_tasks(family)}
    outcomes = [
        Outcome(moment, row["item_id"], image_of[row["item_id"]], row["task"], row["metric"], None, row["correct"])
        for moment, rows in (("now", now), ("before", before))
        for row in _mean_over_seeds(rows, profile.curated_subsets.main)
        if (row["task"], row["metric"]) in metrics
    ]
    found = []
    for row in compare(outcomes, [("now", "before")], profile.benchmarks.bootstrap_resamples, profile.seed):
        grades = {m: [o.correct for o in outcomes if (o.model, o.task) == (m, row["task"])] for m in ("before", "now")}
        difference = Interval(row["difference"], row["low"], row["high"], len(grades["now"]))
        before_mean, now_mean = mean(grades["before"]), mean(grades["now"])
        found.append(BenchmarkChange(family, row["task"], row["metric"], before_mean, now_mean, difference))
    return found


def _mean_over_seeds(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """One row per task, metric and item of the model."""
    frame = pd.DataFrame(
        [row for row in rows if row["model"] == model], columns=["task", "metric", "item_id", "correct"]
    )
    found = frame.groupby(["task", "metric", "item_id"], sort=False)["correct"].mean().reset_index()
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]
