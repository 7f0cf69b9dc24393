"""Measured figures of a model with their intervals, from the outputs of the benchmarks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from rsqa_pipeline.evidence.project import Project
from rsqa_pipeline.records import read_table

_RESULTS = ("clip_benchmark", "vlm_benchmark", "reward_bench")
_REPORT = "score_model_report"


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval."""

    measured_by: str
    """The asset."""
    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    """Items or pairs."""
    chance: float | None = None


def figures_of(project: Project, asset: str) -> list[Figure]:
    """All figures that the standing version of a model's asset has, and none of another version."""
    version = project.standing[asset]["data_version"]
    measured = [
        name
        for name in (*_RESULTS, _REPORT)
        if name in project.standing and project.standing[name]["recipe"]["inputs"].get(asset) == version
    ]
    return [figure for name in measured for figure in _figures(project, name, asset)]


def _figures(project: Project, measured_by: str, asset: str) -> Iterator[Figure]:
    folder = project.folder(measured_by)
    if measured_by == _REPORT:
        for row in json.loads((folder / "accuracy.json").read_text(encoding="utf-8")):
            if row["selector"] == asset:
                metric = f"pairs ordered as the {row['label']} does"
                yield Figure(measured_by, row["family"], metric, row["value"], row["low"], row["high"], row["n"])
        return
    subset = project.asset(asset).options.get("subset") if project.asset(asset).stage == "finetuned_models" else None
    for row in read_table(folder / "results.parquet"):
        if row["model"] == (subset or asset):
            low, high, chance = (_known(row[key]) for key in ("low", "high", "chance"))
            yield Figure(measured_by, row["task"], row["metric"], row["value"], low, high, int(row["n"]), chance)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
