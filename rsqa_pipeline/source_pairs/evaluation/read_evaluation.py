"""Reads any source of benchmarks: a published evaluation file by its format, or what `read_source` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Boxes, SourceFile
from rsqa_pipeline.source_pairs.evaluation import dior_rsvg, fmow, lhrs_bench, reward_pairs, rsvqa, vrsbench
from rsqa_pipeline.source_pairs.readers.image_names import with_found_names
from rsqa_pipeline.source_pairs.readers.read_source import images_folder, read_source, refuse_outside
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow

READERS: dict[str, Callable[[Path, Path], Iterator[Entry]]] = {
    "lhrs_bench": lhrs_bench.read,
    "rsvqa": rsvqa.read,
    "dior_rsvg": dior_rsvg.read,
    "vrsbench_captions": vrsbench.read_captions,
    "vrsbench_questions": vrsbench.read_questions,
    "vrsbench_boxes": vrsbench.read_boxes,
    "vl_rewardbench": reward_pairs.read_vl_rewardbench,
    "multimodal_rewardbench": reward_pairs.read_multimodal_rewardbench,
    "fmow": fmow.read,
}
"""A reader takes the path and the folder of images; its rows have no split: all of them are test rows."""
BOXES = {"dior_rsvg": Boxes(unit="pixels"), "vrsbench_boxes": Boxes(unit="0..100")}
"""How each of these data sets writes boxes."""


def read_evaluation(source: SourceFile) -> Iterator[Entry]:
    """Yields every row in order, readable or faulty; a row with the id of an earlier one is a fault ``duplicate_id``.

    Raises:
        DataError: the file cannot be used at all, or the settings declare other boxes than the data set has.
    """
    if source.format not in READERS:
        return read_source(source)
    if source.path is None:
        raise DataError(f"format {source.format} needs a path")
    boxes_of(source)
    folder = images_folder(source)
    if source.format == "dior_rsvg" and source.images is None:
        folder = folder / "JPEGImages"
    entries = with_found_names(READERS[source.format](Path(source.path), folder), folder)
    return _unique(refuse_outside(entries, folder, ()))


def boxes_of(source: SourceFile) -> Boxes | None:
    """How the source writes boxes: as its data set does, or as its settings declare.

    Raises:
        DataError: the settings declare other boxes than the data set has.
    """
    own = BOXES.get(source.format)
    if own is not None and source.boxes not in (None, own):
        raise DataError(
            f"{source.path}: boxes of {source.format} are in {own.unit}, {own.order}; the settings declare "
            f"{source.boxes.unit}, {source.boxes.order}; leave out boxes"
        )
    return own or source.boxes


def _unique(entries: Iterable[Entry]) -> Iterator[Entry]:
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, SourceRow) and entry.key in seen:
            yield RowFault(entry.key, "duplicate_id", "the file has a row of this id before", entry.image)
        else:
            yield entry
        if isinstance(entry, SourceRow):
            seen.add(entry.key)
