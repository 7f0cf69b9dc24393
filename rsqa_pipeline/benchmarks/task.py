"""A benchmark task is data: ``tasks/NAME.yaml`` defines its prompts, metrics and chance level."""

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
    """One metric of a task: the mean over items of a value in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    k: int = Field(default=1, ge=1)
    """An item is right if the truth is among the first k."""
    direction: Literal["image_to_text", "text_to_image"] | None = None
    """Only for retrieval metrics."""


class BenchmarkTask(BaseModel):
    """What a task asks, how a reply is graded, and its chance level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    """Increased with every change that affects results, such as another prompt or rule."""
    description: str
    model: ModelKind
    items: str
    """Task name of the benchmark items that it uses."""
    prompts: list[str] = []
    """Templates: ``{class}`` for CLIP, ``{question}`` and ``{choices}`` for a VLM. CLIP averages several templates."""
    reply: Literal["ranking", "word", "letter", "box", "caption"]
    """What is graded: a ranking, an exact word or number, an exact choice letter, one box in pixels, a caption."""
    length_factor: int = Field(default=1, ge=1)
    """Maximum reply length, as a multiple of the profile's ``max_new_tokens``."""
    metrics: list[Metric] = Field(min_length=1)
    higher_is_better: bool
    interval: Literal["wilson", "bootstrap"]
    """Wilson if each item is right or wrong, bootstrap over items if grades are fractional."""
    chance: ChanceRule


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


def load_tasks(model: ModelKind) -> list[BenchmarkTask]:
    """All tasks for a kind of model, sorted by name."""
    tasks = [load_task(path) for path in sorted(TASK_FOLDER.glob("*.yaml"))]
    return [task for task in tasks if task.model == model]
