"""Karpathy-style JSON, the layout of RSICD, UCM-Captions and Sydney-Captions.

One real entry (of five sentences, two shown)::

    {"images": [{"filename": "airport_1.jpg", "imgid": 0, "split": "train", "sentids": [0, 1],
      "sentences": [{"raw": "many planes are parked next to a long building in an airport .",
                     "tokens": ["many", "planes", "..."], "imgid": 0, "sentid": 0},
                    {"raw": "many planes are parked in an airport .", "imgid": 0, "sentid": 1}]}],
     "dataset": "rsicd"}

COCO's file of this layout (``dataset_coco.json``) names each image's folder in ``filepath``: ``val2014``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.readers.json_records import records
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKey
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption, file_split, key_or, text_of

LAYOUT = "Karpathy JSON"


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per sentence, with key ``filepath/filename/sentid``; an image without sentences gives one fault.

    Raises:
        DataError: the file cannot be read or has no list ``images``.
    """
    for record in records(path, ("images",), LAYOUT):
        if isinstance(record, RowFault):
            yield record
        else:
            yield from read_image(record.value, record.index, images)


def read_image(image: Any, index: int, images: Path) -> Iterator[Entry]:
    """Yields the entries of one element of ``images``: one per sentence, in order, or one fault for all of them."""
    if isinstance(image, RepeatedKey):
        yield RowFault(f"images[{index}]", "bad_row", str(image))
        return
    name = text_of(image, "filename")
    if not name:
        yield RowFault(f"images[{index}]", "no_image", f"no filename in {str(image)[:200]}")
        return
    if image.get("filepath") is not None and text_of(image, "filepath") is None:
        yield RowFault(name, "no_image", f"filepath is {str(image['filepath'])[:100]}, needs the name of a folder")
        return
    name = "/".join(filter(None, (text_of(image, "filepath"), name)))
    reference = str(images / name)
    split = file_split(image.get("split"))
    if split is None:
        yield RowFault(name, "unknown_split", f"split is {image.get('split')!r}", reference)
        return
    sentences = image.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        yield RowFault(name, "no_captions", f"sentences is {sentences!r}", reference, split)
        return
    for position, sentence in enumerate(sentences):
        number = sentence.get("sentid") if isinstance(sentence, dict) else None
        key = f"{name}/{key_or(number, str(position))}"
        text = text_of(sentence, "raw")
        if text is None:
            yield RowFault(key, "not_text", f"raw is missing in {str(sentence)[:200]}", reference, split)
        else:
            yield SourceRow(key, reference, caption(text), "caption", "human", split, None)
