"""Benchmark items made from images that are never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile, SourceFile, SourcePairs
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import BENCHMARK_ITEM, Metrics, sha256, write_table
from rsqa_pipeline.source_pairs.class_questions import ask, tasks_for
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.from_scenes import benchmark_items
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.scene_classes import class_words
from rsqa_pipeline.tracking.run_logger import RunLogger

_FORMATS = ("karpathy", "class_questions", "coco", "csv", "jsonl", "webdataset", "hf_parquet", "image_folder")


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes items.parquet and quarantine.parquet (and images.tar for scenes).

    ``input_rows`` counts the rows of the source's test split; ``items/<task>`` counts the items made from the kept
    rows.

    Raises:
        DataError: the source cannot be used at all, has no test rows, or names no splits and is trained on.
    """
    pairs = settings.source_pairs
    assert pairs.benchmarks is not None  # otherwise the profile has no such asset
    quarantine = Quarantine("benchmark_sets")
    if pairs.benchmarks.format == "scenes":
        items = benchmark_items(pairs.benchmark_items, settings.seed, out)
        kept = len(items)
    else:
        clean = check_rows(
            _test_rows(pairs, pairs.benchmarks), ImageIndex(pairs.max_image_pixels, pairs.max_image_bytes), quarantine
        )
        items = file_items(clean, pairs.benchmark_items, settings.seed)
        kept = len(clean)
    write_table(out / "items.parquet", BENCHMARK_ITEM, items)
    quarantine.write(out)
    tasks = sorted({item["task"] for item in items})
    metrics = quarantine.metrics(kept)
    metrics |= {f"items/{task}": float(sum(item["task"] == task for item in items)) for task in tasks}
    logger.log_metrics(metrics)
    return metrics


def _test_rows(pairs: SourcePairs, source: SourceFile) -> list[Any]:
    if source.format not in _FORMATS:
        raise DataError(f"source_pairs.benchmarks.format must be one of {', '.join(_FORMATS)}, found {source.format}")
    entries = list(read_source(source))
    names_splits = any(entry.split is not None for entry in entries)
    trained = {other.path for other in (pairs.captions, pairs.instructions) if other is not None}
    if not names_splits and source.path in trained:
        raise DataError(f"{source.path} names no splits and is trained on; benchmarks need another file")
    test = [entry for entry in entries if entry.split == ("test" if names_splits else None)]
    if not test:
        raise DataError(f"{source.path} has no rows of split 'test'")
    return test


@dataclass
class _TestImage:
    image_id: str
    image: str
    scene_class: str | None
    captions: list[str] = field(default_factory=list)


def file_items(rows: Iterable[CleanRow], count: int, seed: int) -> list[dict[str, Any]]:
    """Makes items of every task that the rows allow: at most ``count`` per task, evenly spaced over the images.

    Retrieval keeps repeated captions of an image, as published results do. Classes give classification, yes-no and
    multiple-choice questions.
    """
    images: dict[str, _TestImage] = {}
    for clean in rows:
        known = _TestImage(clean.image_id, clean.row.image, clean.row.scene_class)
        image = images.setdefault(clean.image_id, known)
        if clean.row.task == "caption":
            image.captions.append(clean.row.messages[-1]["content"])
    captioned = [image for image in images.values() if image.captions]
    classed = [image for image in images.values() if image.scene_class]
    classes = sorted({image.scene_class for image in classed if image.scene_class})
    items = [_item("retrieval", image, captions=image.captions) for image in _evenly(captioned, count)]
    for task in tasks_for(classes):
        items += [_class_item(task, image, classes, seed) for image in _evenly(classed, count)]
    return items


def _class_item(task: Any, image: _TestImage, classes: list[str], seed: int) -> dict[str, Any]:
    scene_class = image.scene_class or ""
    if task == "scene_class":
        return _item("classification", image, answer=class_words(scene_class))
    question = ask(task, scene_class, classes, f"{seed}/{image.image_id} {task}")
    choices = [class_words(choice) for choice in question.choices] if question.choices else None
    return _item(task, image, question=question.text, answer=question.answer(scene_class), choices=choices)


def _item(task: str, image: _TestImage, **values: Any) -> dict[str, Any]:
    return {
        "item_id": f"{task}-{sha256(image.image_id, values.get('question') or '')[:16]}",
        "task": task,
        "image_id": image.image_id,
        "image": image.image,
        "scene_class": image.scene_class,
        **values,
    }


def _evenly(images: Sequence[_TestImage], count: int) -> list[_TestImage]:
    steps = min(count, len(images))
    return [images[step * len(images) // steps] for step in range(steps)]
