"""fMoW's RGB release: one folder per class, one per place, with images and their metadata.

One image: ``val/airport/airport_0/airport_0_0_rgb.jpg``; the path is the split's folder, ``val``. Other files beside it
(``..._rgb.json``, ``..._msrgb.jpg``) are not images of this release and are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.evaluation.rows import question_row
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION, class_from_name, class_words
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault


def read(path: Path, images: Path) -> Iterator[Entry]:
    """Yields one entry per image, sorted by path, which is the key; one in no class folder is a fault ``no_class``.

    Raises:
        DataError: the folder holds no such image.
    """
    files = sorted(path.rglob("*_rgb.jpg"))
    if not files:
        raise DataError(f"{path} has no images ..._rgb.jpg; give the folder of one split of fMoW, e.g. val")
    for file in files:
        name = file.relative_to(path)
        if len(name.parts) != 3:
            yield RowFault(name.as_posix(), "no_class", f"needs class/place/image, found {name.as_posix()}", str(file))
            continue
        words = class_words(class_from_name(name.parts[0]))
        yield question_row(name.as_posix(), path, name.as_posix(), CLASS_QUESTION, words, "scene_class", path.name)
