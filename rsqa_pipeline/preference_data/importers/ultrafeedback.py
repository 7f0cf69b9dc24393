"""UltraFeedback, binarized (Parquet): public text preferences for the first phase (paper, stage 1).

One real row, texts shortened::

    {"prompt": "how can i develop a habit of drawing daily", "prompt_id": "086b..",
     "chosen": [{"role": "user", "content": "how can i develop a habit of drawing daily"},
                {"role": "assistant", "content": "Developing a daily habit of drawing can be challenging .."}],
     "rejected": [{"role": "user", "content": "how can i develop a habit of drawing daily"},
                  {"role": "assistant", "content": "As an AI language model, I cannot personally develop habits .."}],
     "score_chosen": 8.5, "score_rejected": 8.0}

Rows with two equal scores give no order and are quarantined. The scores are on UltraFeedback's scale and are not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    conversation_pair,
    image_of,
    pairs_in,
)
from rsqa_pipeline.profile.preference_data import PairFile


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `pairs_in`."""
    return pairs_in(file, _pairs)


def _pairs(key: str, row: dict[str, Any], folder: Path) -> list[ImportedPair]:
    good, bad = _score(row, "score_chosen"), _score(row, "score_rejected")
    if good is not None and good == bad:
        raise BadRow("equal_scores", f"both score {good}")
    if good is not None and bad is not None and good < bad:
        raise BadRow("wrong_order", f"chosen scores {good}, rejected {bad}")
    image = image_of(row, folder)  # an image makes it another kind of pair, which `add_imports` refuses
    return [ImportedPair(key, *conversation_pair(row, image), image)]


def _score(row: dict[str, Any], name: str) -> float | None:
    """The score; None if it is missing. Raises BadRow if it is not a finite number."""
    score = row.get(name)
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not -math.inf < score < math.inf:
        raise BadRow("bad_row", f"{name} is {str(score)[:100]}, needs a number")
    return score
