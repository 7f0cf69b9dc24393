"""Splits of the data: preference, corpus, validation, test. An image is never in two of them."""

from __future__ import annotations

from rsqa_pipeline.records import Split, sha256
from rsqa_pipeline.source_pairs.source_row import FileSplit


def unit_hash(*parts: str) -> float:
    """A number in [0, 1) that depends only on ``parts``: the random draw of one row, independent of all other rows."""
    return int(sha256(*parts)[:13], 16) / 16**13


def split_of(file_split: FileSplit | None, image_id: str, seed: int, preference_share: float) -> Split:
    """The split of an image.

    Training images (and those of a file without splits) go to ``preference`` or ``corpus``, by their id and the seed
    alone. A changed text therefore moves nothing, and captions and questions about one image stay in one split.
    """
    if file_split in ("validation", "test"):
        return file_split
    return "preference" if unit_hash(str(seed), "split", image_id) < preference_share else "corpus"
