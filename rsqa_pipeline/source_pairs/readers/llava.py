"""LLaVA / ShareGPT JSON: a list of conversations, each about one image.

One real row::

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
      {"from": "human", "value": "<image>\\nWhat are the colors of the bus in the image?"},
      {"from": "gpt", "value": "The bus in the image is white and red."},
      {"from": "human", "value": "What feature can be seen on the back of the bus?"},
      {"from": "gpt", "value": "The back of the bus features an advertisement."}]}

Multi-turn conversations stay multi-turn. The placeholder ``<image>`` is removed from the text: the image always
precedes it. The single answer to a question that is only the placeholder, or one of the caption prompts (see
`options`), becomes a caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.source_pairs.readers.json_records import records
from rsqa_pipeline.source_pairs.readers.json_row import image_name, rows_of
from rsqa_pipeline.source_pairs.readers.options import DEFAULT_OPTIONS, ReaderOptions
from rsqa_pipeline.source_pairs.readers.unique_keys import RepeatedKey
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, key_or

LAYOUT = "LLaVA JSON"


def read(path: Path, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Iterator[Entry]:
    """Yields one entry per conversation, with its ``id`` as key. Default source: the file's name (see `json_row`).

    Raises:
        DataError: the file cannot be read or is not a list.
    """
    for record in records(path, (), LAYOUT):
        yield (
            record if isinstance(record, RowFault) else read_row(record.value, record.index, path.stem, images, options)
        )


def read_row(row: Any, index: int, source: str, images: Path, options: ReaderOptions = DEFAULT_OPTIONS) -> Entry:
    """Returns the entry of one element of the list."""
    if isinstance(row, RepeatedKey):
        return RowFault(f"[{index}]", "bad_row", str(row))
    if not isinstance(row, dict):
        return RowFault(f"[{index}]", "bad_row", f"needs an object, found {type(row).__name__}")
    row = options.renamed(row)
    key = key_or(row.get("id"), f"[{index}]")
    try:
        name = image_name(row)
    except ValueError as error:
        return RowFault(key, "no_image", str(error))
    reference = str(images / name)
    if row.get("messages") is None and row.get("conversations") is None:
        found = f"needs conversations or messages, found {', '.join(map(str, row))[:200]}"
        return RowFault(key, "bad_turns", f"{found}; a key of another name is named in columns", reference)
    (entry,) = rows_of(row, key, reference, source, options, name)  # a conversation is one row
    return entry
