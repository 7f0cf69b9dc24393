"""RLHF-V (Parquet): answers about images; the hallucinated one is rejected (paper, stage 3).

One real row, shortened::

    {"ds_name": "RLHF-V", "image": {"bytes": b"\\xff\\xd8..", "path": "OpenImages/img_0.jpg"},
     "text": "{\\"question\\": \\"Who is more likely to use these tools a leather crafter or a paper crafter?\\",
       \\"chosen\\": \\"A leather crafter is more likely to use these tools.\\",
       \\"rejected\\": \\"A paper crafter is more likely to use these tools. ..\\"}",
     "origin_dataset": "LLaVA-Instruct", "idx": 0, "image_path": "OpenImages/img_0.jpg"}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    image_names,
    image_of,
    pairs_in,
    text_about,
    text_in,
)
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.readers.unique_keys import decode


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `pairs_in`."""
    return pairs_in(file, _pairs)


def _pairs(key: str, row: dict[str, Any], folder: Path) -> list[ImportedPair]:
    text = row.get("text")
    if isinstance(text, str):
        try:
            text = decode(text)
        except (ValueError, RecursionError) as error:
            raise BadRow("bad_row", f"text cannot be read as JSON: {error}") from error
    if not isinstance(text, dict):
        raise BadRow("bad_row", f"text is {type(text).__name__}, needs question, chosen and rejected")
    image = image_of(row, folder)
    own = None if image is None else image_names(row, image)
    question, chosen, rejected = (text_about(text_in(text, name), own) for name in ("question", "chosen", "rejected"))
    return [ImportedPair(key, (Message(role="user", content=question),), chosen, rejected, image)]
