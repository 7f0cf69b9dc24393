"""Exports selected rows of a file: in the file's own format, record by record, or in another format."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rsqa_pipeline.curated_subsets.export.hf import write_hf
from rsqa_pipeline.curated_subsets.export.json_rows import write_jsonl, write_llava
from rsqa_pipeline.curated_subsets.export.same import write_same
from rsqa_pipeline.curated_subsets.export.tar_shards import write_webdataset
from rsqa_pipeline.curated_subsets.export.wanted import Wanted
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import SourceFile

_WRITERS: dict[str, Callable[[SourceFile, Wanted, Path], None]] = {
    "same": write_same,
    "llava": write_llava,
    "jsonl": write_jsonl,
    "webdataset": write_webdataset,
}
FORMS = (*_WRITERS, "hf")


@dataclass(frozen=True)
class ExportCount:
    """What an export wrote. Example: ``ExportCount(rows=7494, left_out={"missing_image": 1})``"""

    rows: int
    left_out: dict[str, int]
    """Rows whose image could no longer be read, by reason; only for forms that copy images."""


def export(
    source: SourceFile, keep: Collection[str], out: Path, form: str, facts: Mapping[str, str] | None = None
) -> ExportCount:
    """Writes the rows of ``source`` whose keys are in ``keep`` to ``out``, atomically.

    ======================  =========================================================================================
    ``same``                the format of the source: records are byte-equal slices of it, in its order; the bytes
                            around them are unchanged. COCO images without a kept annotation are left out. In Karpathy
                            JSON the unit is the sentence: an image with all its sentences kept is byte-equal, one with
                            some is rewritten with those, one with none is left out. Parquet keeps its schema and row
                            groups
    ``llava``, ``jsonl``    one file; images by name relative to the source's image folder, or by reference if the
                            source contains them
    ``webdataset``          a folder of tar shards with the image and JSON of each row
    ``hf``                  a folder for `datasets.load_dataset`: Parquet with the images' bytes, and a card
    ======================  =========================================================================================

    All forms but ``same`` also store split, source, task and scene class, so that the project's readers return the
    same rows. If several rows have the same key, the first one is written, as in scoring.

    Args:
        keep: keys, as returned by `read_source`.
        form: one of `FORMS`.
        facts: lines for the card on how the rows were selected, e.g. ``{"rule": "best 30 % of captions by score",
            "score model version": "5be1c0.."}``.

    Raises:
        DataError: the form is unknown, ``out`` is part of the source or a folder with files, the source cannot be read
            or lacks a key of ``keep``.
    """
    if form not in FORMS:
        raise DataError(f"cannot export as {form!r}; known forms: {', '.join(FORMS)}")
    _check_output(source, out)
    scratch = out.with_name(f"{out.name}.scratch")
    _remove(scratch)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    wanted = Wanted(keep)
    try:
        if form == "hf":
            write_hf(source, wanted, scratch, facts or {})
        else:
            _WRITERS[form](source, wanted, scratch)
        if wanted.remaining:
            example = min(wanted.remaining)
            raise DataError(
                f"{source.path} lacks {len(wanted.remaining)} of the {len(keep)} rows to export, e.g. {example!r}; "
                "was it changed since it was scored?"
            )
    except BaseException:
        _remove(scratch)
        raise
    scratch.replace(out)
    return ExportCount(wanted.taken - wanted.left_out.total(), dict(Counter(wanted.left_out)))


def _check_output(source: SourceFile, out: Path) -> None:
    path, target = Path(source.path or "").resolve(), out.resolve()
    if target == path or (path.is_dir() and target.is_relative_to(path)):
        raise DataError(f"{out} is the source {source.path} or lies in it; choose another path")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is a folder with files in it; choose a new one, or delete it first")


def _remove(scratch: Path) -> None:
    if scratch.is_dir():
        shutil.rmtree(scratch)
    scratch.unlink(missing_ok=True)
