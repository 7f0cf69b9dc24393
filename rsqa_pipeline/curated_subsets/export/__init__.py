"""A chosen part of a file's rows: in the file's own format, record for record, or in another one."""

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
    """Rows whose image could not be read any more, by reason; only where images are copied."""


def export(
    source: SourceFile, keep: Collection[str], out: Path, form: str, facts: Mapping[str, str] | None = None
) -> ExportCount:
    """Writes the rows of ``source`` with the keys in ``keep`` to ``out``, which appears whole or not at all.

    ======================  =========================================================================================
    ``same``                the format of the source: records are byte-equal slices of it, in its order, and what
                            stands around them is as it was. COCO's images without a kept annotation are left out.
                            In Karpathy JSON the unit is the sentence: an image with all sentences kept is byte-equal,
                            one with some is written anew with these, one with none is left out. Parquet keeps its
                            schema and row groups
    ``llava``, ``jsonl``    one file; images by name below the source's folder of images, or by reference where the
                            source holds them itself
    ``webdataset``          a folder of tar shards with image and JSON of each row
    ``hf``                  a folder for `datasets.load_dataset`: Parquet with the images' bytes, and a card
    ======================  =========================================================================================

    All but ``same`` keep what is known of a row besides (split, source, task, scene class), so that the project's
    readers give the same rows back. Of rows with one key the first counts, as it does in scoring.

    Args:
        keep: keys, as `read_source` gives them.
        form: one of `FORMS`.
        facts: what the card says of how the rows were chosen, e.g. ``{"rule": "best 30 % of captions by score",
            "score model version": "5be1c0.."}``.

    Raises:
        DataError: an unknown form, ``out`` is in the way, the source cannot be read, or has not all keys of ``keep``.
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
        raise DataError(f"{out} is, or lies in, the source {source.path}; name another place")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is a folder with files in it; name a new one, or delete it first")


def _remove(scratch: Path) -> None:
    if scratch.is_dir():
        shutil.rmtree(scratch)
    scratch.unlink(missing_ok=True)
