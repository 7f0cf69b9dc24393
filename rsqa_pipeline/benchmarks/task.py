"""A benchmark task is data: ``tasks/NAME.yaml`` defines its prompts, metrics and chance level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from rsqa_pipeline.errors import DataError

TASK_FOLDER = Path(__file__).parent / "tasks"

T = TypeVar("T")
ModelKind = Literal["clip", "vlm", "scorer"]


class Metric(BaseModel):
    """One metric of a task: the mean over items of a value in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    k: int = Field(default=1, ge=1)
    """An item is right if the truth is among the first k."""
    direction: Literal["image_to_text", "text_to_image"] | None = None
    """Only for retrieval metrics."""
    label: str | None = None
    """Label in the plot of CLIP models or scorers; a metric without one is not plotted there."""
    marker: str | None = None
    """Only for a VLM: another marker than the task's, for the same replies."""
    rivals: int = Field(default=1, ge=1)
    """Only for scorers: wrong texts that the right one must all beat."""


class BenchmarkTask(BaseModel):
    """What a task asks, how a reply is graded, and its chance level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    """Increased with every change that affects results, such as another prompt or rule."""
    description: str
    model: ModelKind
    source: str
    """Kind of the benchmark items that it uses, the column ``task`` of `records.BENCHMARK_ITEM`."""
    prompts: list[str] = []
    """Templates: ``{class}`` for CLIP, ``{question}`` and ``{choices}`` for a VLM. CLIP averages several templates.
    Scorers have none."""
    marker: str
    """Name of the function that marks a model on the items: in `answers.MARKERS` for a VLM, in
    `clip_benchmark.MARKERS` for a CLIP, in `reward_bench.MARKERS` for a scorer."""
    length_factor: int = Field(default=1, ge=1)
    """Maximum reply length, as a multiple of the profile's ``max_new_tokens``."""
    metrics: list[Metric] = Field(min_length=1)
    """The task's main metric first. ``lenient_accuracy`` accepts a right answer in a wrong form, so that a gain in form
    is not taken for a gain in knowledge."""
    higher_is_better: bool
    interval: Literal["wilson", "bootstrap"]
    """Wilson if each item is right or wrong, bootstrap over items if grades are fractional."""
    chance: str
    """Name of the function in `chance.CHANCE`."""
    best_of_n: bool = False
    """Whether best of N draws answers to its items."""


def load_task(path: Path) -> BenchmarkTask:
    """Loads a task file.

    Raises:
        pydantic.ValidationError: the file is not a valid task.
        ValueError: the task's name is not the file's name.
    """
    task = BenchmarkTask.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    if task.name != path.stem:
        raise ValueError(f"{path}: the task's name is {task.name!r}, expected {path.stem!r}")
    return task


def load_tasks(model: ModelKind, folder: Path = TASK_FOLDER) -> list[BenchmarkTask]:
    """All tasks for a kind of model, sorted by name."""
    tasks = [load_task(path) for path in sorted(folder.glob("*.yaml"))]
    return [task for task in tasks if task.model == model]


def function_of(
    task: BenchmarkTask, key: Literal["marker", "chance"], known: Mapping[str, T], metric: Metric | None = None
) -> T:
    """The function that the task file names, for all its metrics or for one with a marker of its own.

    Raises:
        DataError: there is no function of that name.
    """
    name: str = (metric and metric.marker) or getattr(task, key)
    if name not in known:
        raise DataError(f"task {task.name}: {key} {name!r} is unknown; known for {task.model}: {', '.join(known)}")
    return known[name]
