"""Reads any known format by its name in the profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.geotiff import RasterChoice
from rsqa_pipeline.images.references import parse_reference, with_raster
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import (
    coco,
    csv_file,
    hf_parquet,
    image_folder,
    jsonl,
    karpathy,
    llava,
    webdataset,
)
from rsqa_pipeline.source_pairs.scene_classes import class_from_file_name
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, RowFault, SourceRow

READERS: dict[str, Callable[[Path, Path], Iterator[Entry]]] = {
    "karpathy": karpathy.read,
    "class_questions": karpathy.read,  # the images and classes of such a file; its captions are not used
    "coco": coco.read,
    "llava": llava.read,
    "csv": csv_file.read,
    "jsonl": jsonl.read,
    "webdataset": webdataset.read,
    "hf_parquet": hf_parquet.read,
    "image_folder": image_folder.read,
}
SHARDS: dict[str, Callable[[Path], list[Path]]] = {"webdataset": webdataset.shards, "hf_parquet": hf_parquet.files}
"""Of the formats that hold images themselves: the files that hold them."""
_RASTER_ENDINGS = (".tif", ".tiff")


def read_source(source: SourceFile) -> Iterator[Entry]:
    """Every row of the file, in its order, readable or faulty; with ``limit``, those of the images chosen.

    Rows stream: nothing is held but what a format needs to know of itself. With ``limit`` all rows are held once.
    A row whose image lies outside the images' folder, by its name or through a symbolic link, becomes the fault
    ``outside_root``.

    Raises:
        DataError: the file as a whole cannot be used; told now, with the first row, or where it breaks
            off.
    """
    if source.path is None or source.format not in READERS:
        raise DataError(f"format {source.format!r} with path {source.path} is no file to read")
    path, folder = Path(source.path), images_folder(source)
    named = {str(file) for file in SHARDS[source.format](path)} if source.format in SHARDS else set()
    entries = inside(READERS[source.format](path, folder), folder, named)
    if source.bands or source.stretch:
        choice = RasterChoice(tuple(source.bands) if source.bands else None, source.stretch)
        entries = (_with_raster(entry, choice) for entry in entries)
    if source.scene_class_from_name:
        entries = (_with_class(entry) for entry in entries)
    return entries if source.limit is None else _evenly(entries, source.limit)


def images_folder(source: SourceFile) -> Path:
    """The folder that the file's image names are in."""
    assert source.path is not None
    path = Path(source.path)
    return Path(source.images) if source.images else path if path.is_dir() else path.parent


def inside(entries: Iterable[Entry], folder: Path, named: Collection[str]) -> Iterator[Entry]:
    """The entries, those with an image outside ``folder`` as faults ``outside_root``.

    Names of images are data, and may come from anyone: ``../..``, absolute paths and symbolic links that lead out are
    refused. An absolute path within the folder is not.

    Args:
        named: files that the user pointed to, which may lie anywhere: the shards that hold the images themselves.
    """
    root = os.path.realpath(folder)
    seen: str | None = None
    fault: str | None = None
    for entry in entries:
        if isinstance(entry, SourceRow) and entry.image != seen:  # rows about one image mostly follow each other
            seen = entry.image
            fault = _outside(parse_reference(entry.image).file, root, named)
        if fault is not None and isinstance(entry, SourceRow):
            yield RowFault(entry.key, "outside_root", fault, entry.image, entry.split)
        else:
            yield entry


def _outside(file: str, root: str, named: Collection[str]) -> str | None:
    """What is wrong with the place of a file; None where it lies within ``root``, or has a name no file can have."""
    if file in named:
        return None
    folder, name = os.path.split(file)
    try:
        place = os.path.normpath(os.path.join(_real_folder(folder), name))  # noqa: PTH118 - of every row: fast
        if os.path.islink(place):  # noqa: PTH114
            place = os.path.realpath(place)
    except ValueError:  # a null character: it will be missing
        return None
    if place.startswith(os.path.join(root, "")):  # noqa: PTH118
        return None
    return f"{file} lies at {place}, outside the images' folder {root}; name the folder that holds them all"


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _with_raster(entry: Entry, choice: RasterChoice) -> Entry:
    if isinstance(entry, SourceRow) and (entry.image.lower().endswith(_RASTER_ENDINGS) or "#" in entry.image):
        return replace(entry, image=with_raster(entry.image, choice))
    return entry


def _with_class(entry: Entry) -> Entry:
    if not isinstance(entry, SourceRow):
        return entry
    return replace(entry, scene_class=class_from_file_name(Path(entry.image).name))


def _evenly(entries: Iterable[Entry], limit: int) -> Iterator[Entry]:
    """Entries of at most ``limit`` images a split, taken at even steps over the file.

    Files list their classes one after the other, so even steps keep the classes' shares. A fault that names no
    image cannot be counted to one and stays.
    """
    images: dict[FileSplit | None, dict[str, None]] = {}
    entries = list(entries)
    for entry in entries:
        if entry.image:
            images.setdefault(entry.split, {})[entry.image] = None
    chosen: set[tuple[FileSplit | None, str]] = set()
    for split, names in images.items():
        ordered = list(names)
        steps = min(limit, len(ordered))
        chosen.update((split, ordered[i * len(ordered) // steps]) for i in range(steps))
    return (entry for entry in entries if not entry.image or (entry.split, entry.image) in chosen)
