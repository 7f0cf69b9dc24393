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

from collections.abc import Iterator

from rsqa_pipeline.preference_data.importers.imported_pair import (
    BadRow,
    Entry,
    ImportedPair,
    ImportFault,
    conversation_pair,
    rows_of,
)
from rsqa_pipeline.profile.preference_data import PairFile


def read(file: PairFile) -> Iterator[Entry]:
    """See `ImportedPair`. Raises DataError like `rows_of`."""
    for key, row in rows_of(file):
        try:
            good, bad = row.get("score_chosen"), row.get("score_rejected")
            if good is not None and good == bad:
                raise BadRow("equal_scores", f"both score {good}")
            if good is not None and bad is not None and good < bad:
                raise BadRow("wrong_order", f"chosen scores {good}, rejected {bad}")
            yield ImportedPair(key, *conversation_pair(row.get("prompt"), row.get("chosen"), row.get("rejected")))
        except BadRow as fault:
            yield ImportFault(key, fault.reason, fault.detail)
