"""COCO captions JSON.

One real entry::

    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "width": 640, "height": 360}],
     "annotations": [{"id": 770337, "image_id": 391895,
                      "caption": "A man with a red helmet on a small moped on a dirt road. "}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.readers.json_records import records
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKey
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, key_or, text_of

LAYOUT = "COCO captions JSON"


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per annotation, with its id as key; then one fault per image that no annotation names.

    COCO has one file per split, so the split is None. The file is read twice, for its images and for its annotations;
    only the file names of the images are kept in memory.

    Raises:
        DataError: the file cannot be read or lacks the lists ``images`` and ``annotations``.
    """
    names: dict[int | str, str] = {}
    yield from read_names(path, names)
    captioned = set()
    for record in records(path, ("annotations",), LAYOUT):
        if isinstance(record, RowFault):
            yield record
            continue
        captioned.add(image_of(record.value))
        yield read_annotation(record.value, record.index, names, images)
    for image_id, name in names.items():
        if image_id not in captioned:
            reference = str(images / name) if name else ""
            yield RowFault(f"image {image_id}", "no_captions", "no annotation names it", reference)


def read_names(path: Path, names: dict[int | str, str]) -> Iterator[RowFault]:
    """Adds the images' file names to ``names`` by id; yields a fault per image whose id or name is missing or repeated.

    An id of two different files has the name "": nothing shows which of them an annotation is about.

    Raises:
        DataError: as `read`.
    """
    for record in records(path, ("images",), LAYOUT):
        if isinstance(record, RowFault):
            continue  # a truncated file gives this fault again with its annotations
        image, name = record.value, text_of(record.value, "file_name")
        image_id = id_in(image, "id")
        if isinstance(image, RepeatedKey):
            yield RowFault(f"images[{record.index}]", "bad_row", str(image))
        elif not name or image_id is None:
            needed = "needs a file_name, and an id that is an integer or a text"
            yield RowFault(f"images[{record.index}]", "no_image", f"{needed}; found {str(image)[:200]}")
        elif image_id in names:
            yield RowFault(f"image {image_id}", "duplicate_id", f"{name}: an image before it has the same id")
            names[image_id] = name if names[image_id] == name else ""
        else:
            names[image_id] = name


def image_of(annotation: Any) -> int | str | None:
    """The id of the image that an annotation refers to; None if it names none."""
    return id_in(annotation, "image_id")


def id_in(content: Any, key: str) -> int | str | None:
    """The id ``content[key]``; None if it is neither an integer nor a text. ``1``, ``1.0``, ``true`` and ``"1"`` are
    not the same id: Python finds ``True`` and ``1.0`` under the key 1."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if type(value) in (int, str) else None


def read_annotation(annotation: Any, index: int, names: Mapping[int | str, str], images: Path) -> Entry:
    """Returns the entry of one element of ``annotations``.

    Args:
        names: as `read_names` fills it.
    """
    key = key_or(annotation.get("id") if isinstance(annotation, dict) else None, f"annotations[{index}]")
    if isinstance(annotation, RepeatedKey):
        return RowFault(key, "bad_row", str(annotation))
    image_id = image_of(annotation)
    if image_id is None or image_id not in names:
        found = annotation.get("image_id") if isinstance(annotation, dict) else None
        return RowFault(key, "unknown_image", f"image_id {found!r} is not among the images")
    if not names[image_id]:
        return RowFault(key, "unknown_image", f"image_id {image_id!r} is that of several images")
    reference = str(images / names[image_id])
    text = text_of(annotation, "caption")
    if text is None:
        return RowFault(key, "not_text", f"caption is missing in {str(annotation)[:200]}", reference)
    return SourceRow(key, reference, caption(text), "caption", "human", None, None)
