"""Benchmark items made from images that are never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import read_forgotten
from rsqa_pipeline.profile import Profile, SourceFile, SourcePairs
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import BENCHMARK_ITEM, Metrics, sha256, write_table
from rsqa_pipeline.source_pairs.benchmark_rows import NoItem, item_values
from rsqa_pipeline.source_pairs.caption_faults import CaptionedImage
from rsqa_pipeline.source_pairs.class_questions import ask, tasks_for
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.evaluation.read_evaluation import boxes_of, read_evaluation
from rsqa_pipeline.source_pairs.from_scenes import benchmark_items
from rsqa_pipeline.source_pairs.reward_items import file_reward_items
from rsqa_pipeline.source_pairs.scene_classes import class_from_name, class_words
from rsqa_pipeline.source_pairs.source_notes import SourceNotes
from rsqa_pipeline.source_pairs.source_row import Entry
from rsqa_pipeline.tracking.run_logger import RunLogger

Row = TypeVar("Row")


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes items.parquet and quarantine.parquet (and images.tar for scenes).

    ``input_rows`` counts the rows of the source's test split; ``items/<task>`` counts the items made from the kept
    rows.

    Raises:
        DataError: the source cannot be used at all, has no test rows, or names no splits and is trained on.
    """
    pairs = settings.source_pairs
    assert pairs.benchmarks is not None  # otherwise the profile has no such asset
    quarantine, forgotten = Quarantine("benchmark_sets"), read_forgotten()
    notes = SourceNotes(str(pairs.benchmarks.path), "test rows")
    if pairs.benchmarks.format == "scenes":
        items = benchmark_items(pairs.benchmark_items, settings.seed, out, quarantine, forgotten)
        kept = len(items)
    else:
        rows, images = (
            _test_rows(pairs, pairs.benchmarks, notes),
            ImageIndex(pairs.max_image_pixels, pairs.max_image_bytes),
        )
        clean = check_rows(rows, images, quarantine, boxes_of(pairs.benchmarks), forgotten)
        items, kept = file_items(clean, pairs.benchmark_items, settings.seed, quarantine)
    write_table(out / "items.parquet", BENCHMARK_ITEM, items)
    quarantine.write(out)
    tasks = sorted({item["task"] for item in items})
    metrics = quarantine.metrics(kept)
    notes.write(out)
    metrics |= notes.metrics()
    metrics |= {f"items/{task}": float(sum(item["task"] == task for item in items)) for task in tasks}
    logger.log_metrics(metrics)
    return metrics


def _test_rows(pairs: SourcePairs, source: SourceFile, notes: SourceNotes) -> list[Entry]:
    entries = list(read_evaluation(source))
    names_splits = any(entry.split is not None for entry in entries)
    trained = {other.path for other in (pairs.captions, pairs.instructions) if other is not None}
    if not names_splits and source.path in trained:
        raise DataError(f"{source.path} names no splits and is trained on; benchmarks need another file")
    test = [entry for entry in entries if entry.split == ("test" if names_splits else None)]
    if not test:
        raise DataError(f"{source.path} has no rows of split 'test'")
    return list(notes.watch(test))


@dataclass
class _TestImage:
    image_id: str
    image: str
    scene_class: str | None
    captions: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, Any]:
        """The image's columns of an item."""
        return {"image_id": self.image_id, "image": self.image, "scene_class": self.scene_class}


def file_items(
    rows: Iterable[CleanRow], count: int, seed: int, quarantine: Quarantine
) -> tuple[list[dict[str, Any]], int]:
    """Makes items of every task that the rows allow: at most ``count`` per task, evenly spaced over the images.
    Returns the items and the number of rows that they may be made from; all other rows are added to ``quarantine``.

    Retrieval keeps repeated captions of an image, as published results do. A row's own question is an item (see
    `benchmark_rows`). Classes give classification, and yes-no and multiple-choice questions if no row asks its own.
    Every image gives items of the reward bench, most kinds only with captions (`reward_items`).
    """
    images: dict[str, _TestImage] = {}
    own: dict[str, list[dict[str, Any]]] = {}
    asked: set[str] = set()
    class_rows: list[str] = []
    kept = 0
    for clean in rows:
        row = clean.row
        image = images.setdefault(clean.image_id, _TestImage(clean.image_id, row.image, row.scene_class))
        if row.task == "caption":
            image.captions.append(row.messages[-1]["content"])
        elif row.task == "scene_class" and len(row.messages) == 2:
            image.scene_class = image.scene_class or class_from_name(row.messages[-1]["content"])
            class_rows.append(row.key)
        else:
            try:
                item = _own_item(clean, image, asked)
            except NoItem as fault:
                quarantine.add(row.key, "no_item", str(fault))
                continue
            own.setdefault(item["task"], []).append(item)
        kept += 1
    captioned = [image for image in images.values() if image.captions]
    classed = [image for image in images.values() if image.scene_class]
    classes = sorted({image.scene_class for image in classed if image.scene_class})
    if "scene_class" not in tasks_for(classes):
        for key in class_rows:
            quarantine.add(key, "no_item", "all rows are of one scene class; classification needs two")
        kept -= len(class_rows)
    items = [_item("retrieval", image, captions=image.captions) for image in _evenly(captioned, count)]
    for task in tasks_for(classes):
        if task not in own:
            items += [_class_item(task, image, classes, seed) for image in _evenly(classed, count)]
    for of_task in [*own.values(), *_reward_items(list(images.values()), classes, seed).values()]:
        items += _evenly(of_task, count)
    return items, kept


def _reward_items(images: Sequence[_TestImage], classes: list[str], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Items of the reward bench by task, as far as the captions allow them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for image in images:
        known = CaptionedImage(image.captions, image.scene_class, classes, f"{seed}/{image.image_id}")
        for item in file_reward_items(known):
            found.setdefault(item["task"], []).append({**image.columns, **item})
    return found


def _own_item(clean: CleanRow, image: _TestImage, asked: set[str]) -> dict[str, Any]:
    """The item of a row's own question; its id is added to ``asked``. Raises NoItem."""
    values = item_values(clean.row)
    item = _item(values.pop("task"), image, **values)
    if item["item_id"] in asked:
        raise NoItem(f"the question was asked before about this image: {item['question'][:100]!r}")
    asked.add(item["item_id"])
    return item


def _class_item(task: Any, image: _TestImage, classes: list[str], seed: int) -> dict[str, Any]:
    scene_class = image.scene_class or ""
    if task == "scene_class":
        return _item("classification", image, answer=class_words(scene_class))
    question = ask(task, scene_class, classes, f"{seed}/{image.image_id} {task}")
    choices = [class_words(choice) for choice in question.choices] if question.choices else None
    return _item(task, image, question=question.text, answer=question.answer(scene_class), choices=choices)


def _item(task: str, image: _TestImage, **values: Any) -> dict[str, Any]:
    pair = values["choices"] if task == "reward_pair" else []  # one question may come with several pairs
    return {
        "item_id": f"{task}-{sha256(image.image_id, values.get('question') or '', *pair)[:16]}",
        "task": task,
        **image.columns,
        **values,
    }


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    steps = min(count, len(rows))
    return [rows[step * len(rows) // steps] for step in range(steps)]
