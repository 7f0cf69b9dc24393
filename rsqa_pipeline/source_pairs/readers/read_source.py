"""Reads any known format by its name in the profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import coco, csv_file, image_folder, karpathy, llava
from rsqa_pipeline.source_pairs.scene_classes import class_from_file_name
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, SourceRow

READERS: dict[str, Callable[[Path, Path], Iterator[Entry]]] = {
    "karpathy": karpathy.read,
    "class_questions": karpathy.read,  # the images and classes of such a file; its captions are not used
    "coco": coco.read,
    "llava": llava.read,
    "csv": csv_file.read,
    "image_folder": image_folder.read,
}


def read_source(source: SourceFile) -> list[Entry]:
    """Every row of the file, in its order, readable or faulty; with ``limit``, those of the images chosen.

    Raises:
        DataError: the file as a whole cannot be used.
    """
    if source.path is None or source.format not in READERS:
        raise DataError(f"format {source.format!r} with path {source.path} is no file to read")
    path = Path(source.path)
    folder = Path(source.images) if source.images else path if path.is_dir() else path.parent
    entries = list(READERS[source.format](path, folder))
    if source.scene_class_from_name:
        entries = [_with_class(entry) for entry in entries]
    return entries if source.limit is None else _evenly(entries, source.limit)


def _with_class(entry: Entry) -> Entry:
    if not isinstance(entry, SourceRow):
        return entry
    return replace(entry, scene_class=class_from_file_name(Path(entry.image).name))


def _evenly(entries: list[Entry], limit: int) -> list[Entry]:
    """Entries of at most ``limit`` images a split, taken at even steps over the file.

    Files list their classes one after the other, so even steps keep the classes' shares. A fault that names no
    image cannot be counted to one and stays.
    """
    images: dict[FileSplit | None, dict[str, None]] = {}
    for entry in entries:
        if entry.image:
            images.setdefault(entry.split, {})[entry.image] = None
    chosen: set[tuple[FileSplit | None, str]] = set()
    for split, names in images.items():
        ordered = list(names)
        steps = min(limit, len(ordered))
        chosen.update((split, ordered[i * len(ordered) // steps]) for i in range(steps))
    return [entry for entry in entries if not entry.image or (entry.split, entry.image) in chosen]
