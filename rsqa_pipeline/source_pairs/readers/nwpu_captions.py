"""NWPU-Captions' JSON (``dataset_nwpu.json``): a list of images per scene class, each with five captions.

One real entry, shortened::

    {"airplane": [{"filename": "airplane_001.jpg", "imgid": 0, "split": "train",
      "raw": "The white airplane is parked on the grey concrete .", "raw_1": "A white airplane is on the apron .",
      "raw_2": "...", "raw_3": "...", "raw_4": "...", "tokens": ["The", "white", "..."]}], "airport": ["..."]}

The image is ``airplane/airplane_001.jpg`` below the image folder, as in NWPU-RESISC45.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.readers.json_records import Record, records
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKey
from rsqa_pipeline.source_pairs.scene_classes import class_from_name
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split, text_of

LAYOUT = "NWPU-Captions JSON"
_CAPTION_KEY = re.compile(r"raw(?:_\d+)?")


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per caption, with key ``class/filename/raw_1``; an image without captions gives one fault.

    Raises:
        DataError: the file cannot be read or is not an object of lists.
    """
    for record in records(path, None, LAYOUT):
        if isinstance(record, RowFault):
            yield record
        else:
            yield from read_image(record, images)


def read_image(record: Record, images: Path) -> Iterator[Entry]:
    """Yields the entries of one image: one per caption, in order, or one fault for all of them."""
    image = record.value
    if isinstance(image, RepeatedKey):
        yield RowFault(f"{record.array}[{record.index}]", "bad_row", str(image))
        return
    name = text_of(image, "filename")
    if not name:
        yield RowFault(f"{record.array}[{record.index}]", "no_image", f"no filename in {str(image)[:200]}")
        return
    name = f"{record.array}/{name}"
    reference = str(images / name)
    split = file_split(image.get("split"))
    if split is None:
        yield RowFault(name, "unknown_split", f"split is {image.get('split')!r}", reference)
        return
    captions = [key for key in image if _CAPTION_KEY.fullmatch(key)]
    if not captions:
        yield RowFault(name, "no_captions", f"no key raw, raw_1, ... in {str(image)[:200]}", reference, split)
    for key in captions:
        text: Any = image[key]
        if isinstance(text, str):
            scene_class = class_from_name(record.array)
            yield SourceRow(f"{name}/{key}", reference, caption(text), "caption", "human", split, scene_class)
        else:
            yield RowFault(f"{name}/{key}", "not_text", f"{key} is {str(text)[:100]}", reference, split)
