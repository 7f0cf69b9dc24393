"""``rsqa score``: scores every row of a file in a known format, without a pipeline; see `shards`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.scorers import ScorerSpec
from rsqa_pipeline.curated_subsets.scoring.sealed_table import write_sealed
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts, ScoreRow, score_table
from rsqa_pipeline.curated_subsets.scoring.worker import FILE_SCORE
from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import RowFault

if TYPE_CHECKING:
    from rsqa_pipeline.score_model.network.model import ScoreModel

ASSET = "score"


def score_file(scorer: ScorerSpec, source: SourceFile, out: Path, shard_rows: int, engine: Engine) -> ScoreCounts:
    """Writes ``out`` (rows of FILE_SCORE in the file's order) and ``<stem>.quarantine.parquet`` next to it.

    The file is read twice: its rows are counted first, to show the remaining time. This costs little next to scoring.

    Args:
        source: format and path of the file; its other settings (limit, class names) also apply.
        out: a Parquet file; an existing table is resumed (see `shards`).

    Raises:
        DataError: the file as a whole cannot be read, or ``out`` is not a table of scores. EngineError, ModelError.
    """
    total = sum(1 for _ in tqdm(read_source(source), desc="count", unit="row", mininterval=1))
    return score_table(_rows(source), scorer, out, ASSET, shard_rows, engine, total)


def _rows(source: SourceFile) -> Iterator[ScoreRow | RowFault]:
    for entry in read_source(source):
        yield entry if isinstance(entry, RowFault) else ScoreRow(entry.key, entry.image, entry.messages)


def score_tensors(model: ScoreModel, file: Path, version: str, out: Path) -> int:
    """Scores rows already prepared by a processor, and writes rows of FILE_SCORE; keys are row numbers.

    Args:
        file: ``.npz`` with ``input_ids`` and ``attention_mask`` (rows, tokens) and, for images, ``pixel_values``
            (patches, values) and ``image_grid_thw`` (images, 3); other arrays are ignored.

    Raises:
        DataError: the file cannot be read, or an array is missing.
        ModelError: the model corrects scores for length, and the tensors do not show where a text begins.
    """
    if model.additions.length_slopes:
        raise ModelError(
            "this score model corrects scores for the length of the text, which prepared tensors do not show; "
            "score the texts themselves"
        )
    import torch  # takes seconds to import; `score_file` only needs it in its workers

    try:
        with np.load(file) as arrays:
            names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
            found = {name: torch.from_numpy(arrays[name]) for name in names if name in arrays}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not an .npz file of arrays: {error}") from error
    missing = {"input_ids", "attention_mask"} - set(found)
    if missing:
        raise DataError(f"{file}: {', '.join(sorted(missing))} missing; it holds {', '.join(sorted(found)) or 'none'}")
    with torch.inference_mode():
        scores = model(**found).tolist()
    rows = [{"key": str(n), "score": score, "model_version": version} for n, score in enumerate(scores)]
    write_sealed(out, FILE_SCORE, rows)
    return len(rows)
