"""A benchmark task is data: ``tasks/NAME.yaml`` names its prompts, its metrics and its chance level."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

TASK_FOLDER = Path(__file__).parent / "tasks"

ModelKind = Literal["clip", "vlm"]
ChanceRule = Literal[
    "uniform_class", "uniform_choice", "most_frequent_answer", "fixed_box", "random_ranking", "other_caption"
]


class Metric(BaseModel):
    """One figure of a task: the mean over items of a value in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    k: int = Field(default=1, ge=1)
    """Right where the truth is among the first k."""
    direction: Literal["image_to_text", "text_to_image"] | None = None
    """Of a retrieval metric."""


class BenchmarkTask(BaseModel):
    """What a task asks, how a reply is marked, and what a guess would get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    """Goes up with every change that moves a figure: another prompt, another rule."""
    description: str
    model: ModelKind
    items: str
    """Task of the benchmark items that it uses."""
    prompts: list[str] = []
    """Templates: ``{class}`` for CLIP, ``{question}`` and ``{choices}`` for a VLM; several are averaged."""
    reply: Literal["ranking", "word", "letter", "box", "caption"]
    """What is marked: a ranking, an exact word or number, an exact choice letter, one box in pixels, a caption."""
    length_factor: int = Field(default=1, ge=1)
    """Longest reply over the profile's ``max_new_tokens``."""
    metrics: list[Metric] = Field(min_length=1)
    higher_is_better: bool
    interval: Literal["wilson", "bootstrap"]
    """Wilson where each item is right or wrong, bootstrap over items where it is graded."""
    chance: ChanceRule


def load_task(path: Path) -> BenchmarkTask:
    """One task file. Raises ``pydantic.ValidationError`` for a bad one, ValueError for another name inside."""
    task = BenchmarkTask.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    if task.name != path.stem:
        raise ValueError(f"{path} names itself {task.name!r}")
    return task


def load_tasks(model: ModelKind) -> list[BenchmarkTask]:
    """Every task for a kind of model, by name."""
    tasks = [load_task(path) for path in sorted(TASK_FOLDER.glob("*.yaml"))]
    return [task for task in tasks if task.model == model]
