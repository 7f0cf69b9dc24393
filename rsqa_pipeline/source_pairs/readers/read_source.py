"""Reads any known format by its name in the profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePath

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.geotiff import DEFAULT_RASTER, RasterChoice
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
    nwpu_captions,
    webdataset,
)
from rsqa_pipeline.source_pairs.readers.image_names import with_found_names
from rsqa_pipeline.source_pairs.readers.options import ReaderOptions
from rsqa_pipeline.source_pairs.scene_classes import class_from_file_name
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, RowFault, SourceRow, split_of_path

READERS: dict[str, Callable[[Path, Path, ReaderOptions], Iterator[Entry]]] = {
    "karpathy": karpathy.read,
    "class_questions": karpathy.read,  # reads the images and classes of the file; its captions are not used
    "coco": coco.read,
    "llava": llava.read,
    "csv": csv_file.read,
    "jsonl": jsonl.read,
    "webdataset": webdataset.read,
    "hf_parquet": hf_parquet.read,
    "image_folder": image_folder.read,
    "nwpu_captions": nwpu_captions.read,
}
SHARDS: dict[str, Callable[[Path], list[Path]]] = {"webdataset": webdataset.shards, "hf_parquet": hf_parquet.files}
"""For each format that stores images itself: the files that store them."""
_RASTER_ENDINGS = (".tif", ".tiff")


def read_source(source: SourceFile) -> Iterator[Entry]:
    """Yields every row of the file in order, readable or faulty; with ``limit``, only rows of the selected images.

    Rows are streamed; with ``limit``, all rows are held in memory once. A row whose image lies outside the image
    folder, by its name or through a symbolic link, becomes the fault ``outside_root``.

    Raises:
        DataError: the file cannot be used at all. It is raised on the call, on the first row, or where the file breaks
            off.
    """
    if source.path is None or source.format not in READERS:
        raise DataError(f"format {source.format!r} with path {source.path} is not a file to read")
    path, folder = Path(source.path), images_folder(source)
    allowed = {str(file) for file in SHARDS[source.format](path)} if source.format in SHARDS else set()
    entries = READERS[source.format](path, folder, ReaderOptions.of(source))
    if path.is_file():  # the readers of folders know which of their files a row is from
        split = split_of_path(PurePath(path.name))
        entries = (entry if entry.split else replace(entry, split=split) for entry in entries)
    if source.format not in ("webdataset", "image_folder"):  # these refer to what they found
        entries = with_found_names(entries, folder)
    entries = refuse_outside(entries, folder, allowed)
    alpha = {"alpha": True, "near_infrared": False}.get(source.fourth_band or "")
    choice = RasterChoice(tuple(source.bands) if source.bands else None, source.stretch, alpha)
    if choice != DEFAULT_RASTER:
        entries = (_with_raster(entry, choice) for entry in entries)
    if source.scene_class_from_name:
        entries = (_with_class(entry) for entry in entries)
    return entries if source.limit is None else _evenly(entries, source.limit)


def images_folder(source: SourceFile) -> Path:
    """The folder of the images that the file names."""
    assert source.path is not None
    path = Path(source.path)
    return Path(source.images) if source.images else path if path.is_dir() else path.parent


def refuse_outside(entries: Iterable[Entry], folder: Path, allowed: Collection[str]) -> Iterator[Entry]:
    """Yields the entries; those with an image outside ``folder`` become faults ``outside_root``.

    Image names are untrusted: ``../..``, absolute paths and symbolic links that lead out of the folder are refused. An
    absolute path within the folder is allowed.

    Args:
        allowed: files that may lie anywhere, because the user named them: the shards that store the images.
    """
    root = os.path.realpath(folder)
    real_folder = lru_cache(maxsize=1024)(
        os.path.realpath
    )  # of this call: a relative folder depends on the current one
    last_image: str | None = None
    fault: str | None = None
    for entry in entries:
        if isinstance(entry, SourceRow) and entry.image != last_image:  # rows about one image are mostly adjacent
            last_image = entry.image
            fault = _outside_fault(parse_reference(entry.image).file, root, allowed, real_folder)
        if fault is not None and isinstance(entry, SourceRow):
            yield RowFault(entry.key, "outside_root", fault, entry.image, entry.split)
        else:
            yield entry


def _outside_fault(file: str, root: str, allowed: Collection[str], real_folder: Callable[[str], str]) -> str | None:
    """The fault of a file outside ``root``; None for one within ``root`` or with a name that no file can have."""
    if file in allowed:
        return None
    folder, name = os.path.split(file)
    try:
        resolved = os.path.normpath(os.path.join(real_folder(folder), name))  # noqa: PTH118 - called per row: fast
        if os.path.islink(resolved):  # noqa: PTH114
            resolved = os.path.realpath(resolved)
    except ValueError:  # a null character: reported later as missing
        return None
    if resolved.startswith(os.path.join(root, "")):  # noqa: PTH118
        return None
    return f"{file} lies at {resolved}, outside the images' folder {root}; name the folder that holds them all"


def _with_raster(entry: Entry, choice: RasterChoice) -> Entry:
    """Bands and stretch apply to TIFFs alone; a part of an archive may be one."""
    if not isinstance(entry, SourceRow):
        return entry
    may_be_tiff = entry.image.lower().endswith(_RASTER_ENDINGS) or "#" in entry.image
    return replace(entry, image=with_raster(entry.image, choice if may_be_tiff else RasterChoice(alpha=choice.alpha)))


def _with_class(entry: Entry) -> Entry:
    if not isinstance(entry, SourceRow):
        return entry
    return replace(entry, scene_class=class_from_file_name(Path(entry.image).name))


def _evenly(entries: Iterable[Entry], limit: int) -> Iterator[Entry]:
    """Keeps the entries of at most ``limit`` images per split, evenly spaced over the file.

    Files list one class after the other, so even spacing keeps the share of each class. A fault that names no image
    cannot be assigned to one and is kept.
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
