"""COCO captions JSON.

One real entry::

    {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "width": 640, "height": 360}],
     "annotations": [{"id": 770337, "image_id": 391895,
                      "caption": "A man with a red helmet on a small moped on a dirt road. "}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.source_row import (
    Entry,
    RowFault,
    SourceRow,
    caption,
    list_of,
    load_json,
    text_of,
)

_LAYOUT = "COCO captions JSON"


def read(path: Path, images: Path) -> Iterator[Entry]:
    """One entry an annotation, key its id; then one fault for each image that no annotation names.

    COCO files are one a split, so the split is None.

    Raises:
        DataError: the file cannot be read or lacks the lists ``images`` and ``annotations``.
    """
    content = load_json(path)
    names: dict[Any, str] = {}
    for index, image in enumerate(list_of(content, "images", path, _LAYOUT)):
        name = text_of(image, "file_name")
        if not name or not isinstance(image.get("id"), int | str):
            yield RowFault(f"images[{index}]", "no_image", f"no id or file_name in {str(image)[:200]}")
        elif image["id"] in names:
            yield RowFault(f"image {image['id']}", "duplicate_id", f"{name}: the id is that of {names[image['id']]}")
        else:
            names[image["id"]] = name
    captioned = set()
    for index, annotation in enumerate(list_of(content, "annotations", path, _LAYOUT)):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if isinstance(image_id, int | str):
            captioned.add(image_id)
        yield _read_annotation(annotation, index, names, images)
    for image_id, name in names.items():
        if image_id not in captioned:
            yield RowFault(f"image {image_id}", "no_captions", "no annotation names it", str(images / name))


def _read_annotation(annotation: Any, index: int, names: dict[Any, str], images: Path) -> Entry:
    number = annotation.get("id", f"annotations[{index}]") if isinstance(annotation, dict) else index
    key = str(number)
    image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
    if not isinstance(image_id, int | str) or image_id not in names:
        return RowFault(key, "unknown_image", f"image_id {image_id!r} is not among the images")
    reference = str(images / names[image_id])
    text = text_of(annotation, "caption")
    if text is None:
        return RowFault(key, "not_text", f"caption is missing in {str(annotation)[:200]}", reference)
    return SourceRow(key, reference, caption(text), "caption", "human", None, None)
