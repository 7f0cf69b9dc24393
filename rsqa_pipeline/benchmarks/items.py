"""Reads the benchmark items that the tasks use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.benchmarks.task import BenchmarkTask
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import read_table

TaskItems = list[tuple[BenchmarkTask, list[dict[str, Any]]]]


def read_items(folder: Path, tasks: Sequence[BenchmarkTask]) -> TaskItems:
    """Each task with its items, in table order. A task without items is left out.

    Items are rows of `records.BENCHMARK_ITEM` with absolute image references.

    Raises:
        DataError: the table has no item of any of the tasks.
    """
    table = folder / "items.parquet"
    items = read_table(table)
    found = [(task, [item for item in items if item["task"] == task.source]) for task in tasks]
    used = [(task, of_task) for task, of_task in found if of_task]
    if not used:
        wanted = ", ".join(sorted({task.source for task in tasks}))
        held = ", ".join(sorted({item["task"] for item in items})) or "nothing (see quarantine.parquet beside it)"
        raise DataError(f"{table} holds {held}; needs items of at least one of: {wanted}")
    return used
