"""Image folder for classification: ``root/class/image`` or ``root/{train,val,test}/class/image``.

One real row: ``EuroSAT/River/River_1.jpg`` is an image of class ``River``, and becomes the question-answer sample
``what class of scene is this?`` -> ``river``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION, class_from_name, class_words
from rsqa_pipeline.source_pairs.source_row import Entry, FileSplit, RowFault, SourceRow, file_split


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per file, sorted by path, with the path below ``images`` as key; source is the folder's name.
    A link to a folder is a fault ``outside_root``.

    Files are not opened here. A file that is not an image is found later, when it is decoded.

    Raises:
        DataError: ``path`` is not a folder or has no files.
    """
    # what is neither a file nor a folder, or is a link to a folder, which is not followed, becomes a row with a reason
    files = sorted(file for file in images.rglob("*") if file.is_symlink() or not file.is_dir())
    if not files:
        raise DataError(f"{images} has no files; needs class folders with images in them")
    for file in files:
        if file.is_dir():
            found = f"{file} is a link to a folder, which is not followed; name the folder that holds all images"
            yield RowFault(file.relative_to(images).as_posix(), "outside_root", found, str(file))
            continue
        folders = file.relative_to(images).parts[:-1]
        split = file_split(folders[0]) if folders else None
        yield _read_file(file, images, folders[1:] if split else folders, split, path.name)


def _read_file(file: Path, root: Path, folders: tuple[str, ...], split: FileSplit | None, source: str) -> Entry:
    key = file.relative_to(root).as_posix()
    if len(folders) != 1:
        detail = (
            f"needs class/image or split/class/image, found {len(folders)} folders{' below the split' if split else ''}"
        )
        return RowFault(key, "no_class", detail, str(file), split)
    scene_class = class_from_name(folders[0])
    return SourceRow(
        key=key,
        image=str(file),
        messages=[
            {"role": "user", "content": CLASS_QUESTION},
            {"role": "assistant", "content": class_words(scene_class)},
        ],
        task="scene_class",
        source=source,
        split=split,
        scene_class=scene_class,
    )
