"""RLHF-V (Parquet): answers about images; the hallucinated one is rejected (paper, stage 3).

One real row, shortened::

    {"ds_name": "RLHF-V", "image": {"bytes": b"\\xff\\xd8..", "path": "OpenImages/img_0.jpg"},
     "text": "{\\"question\\": \\"Who is more likely to use these tools a leather crafter or a paper crafter?\\",
       \\"chosen\\": \\"A leather crafter is more likely to use these tools.\\",
       \\"rejected\\": \\"A paper crafter is more likely to use these tools. ..\\"}",
     "origin_dataset": "LLaVA-Instruct", "idx": 0, "image_path": "OpenImages/img_0.jpg"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    ImportFault,
    image_folder,
    image_in,
    image_of,
    rows_of,
    text_in,
)
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `rows_of`."""
    folder = image_folder(file)
    for key, row in rows_of(file):
        try:
            yield _pair(key, row, folder)
        except BadRow as bad:
            yield ImportFault(key, bad.reason, bad.detail)


def _pair(key: str, row: dict[str, Any], folder: Path) -> ImportedPair:
    text = row.get("text")
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRow("bad_row", f"text is no JSON: {error}") from error
    if not isinstance(text, dict):
        raise BadRow("bad_row", f"text is {type(text).__name__}, needs question, chosen and rejected")
    context = (Message(role="user", content=text_in(text, "question")),)
    image = image_in(image_of(row), folder)
    return ImportedPair(key, context, text_in(text, "chosen"), text_in(text, "rejected"), image)
