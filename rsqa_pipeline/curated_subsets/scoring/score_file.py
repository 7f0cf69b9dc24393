"""``rsqa score``: scores every row of a file in a known format, without a pipeline; see `shards`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.first_pass import FirstPass, first_pass_path
from rsqa_pipeline.curated_subsets.scoring.scorers import ModelSpec, ScorerSpec
from rsqa_pipeline.curated_subsets.scoring.sealed_table import write_sealed
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts, ScoreRow, score_table
from rsqa_pipeline.curated_subsets.scoring.worker import FILE_SCORE
from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import RowFault

if TYPE_CHECKING:
    from rsqa_pipeline.curated_subsets.scoring.fit_first_pass import Sample
    from rsqa_pipeline.score_model.network.model import ScoreModel

ASSET = "score"
MAX_SAMPLE_SHARE = 0.5
"""Share of a file from which a sample for a first pass is too large a part of it to save anything."""


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


def score_best_share(
    model: ModelSpec, source: SourceFile, out: Path, shard_rows: int, engine: Engine, keep: float
) -> tuple[ScoreCounts, FirstPass | None]:
    """As `score_file`, but rows that cannot be among the best share of their kind are only seen by a first pass.

    Dropped rows are in the quarantine table with reason `CANNOT_BE_KEPT`, so that a later run without a first pass
    scores them. The first pass is recorded beside ``out``; a run that resumes uses the recorded one. Where none saves
    work, all rows are scored in full.

    Args:
        model: a score model.

    Returns:
        The counts, and the first pass with the least expected work (it was used if that is below 1); None if none was
        fitted, because the file is small or the model has no cheaper part.
    """
    from rsqa_pipeline.curated_subsets.scoring.after_first_pass import AfterFirstPassSpec
    from rsqa_pipeline.curated_subsets.scoring.fit_first_pass import draw, sample_rows

    rows = tqdm(read_source(source), desc="count", unit="row", mininterval=1)
    sample = draw(rows, sample_rows(keep))
    found = _first_pass(model, sample, keep, out) if sample.share <= MAX_SAMPLE_SHARE else None
    if found is None or found.work >= 1:
        return score_table(_rows(source), model, out, ASSET, shard_rows, engine, int(rows.n)), found
    spec = AfterFirstPassSpec(model, first_pass_path(out))
    asset = f"{ASSET}, best {100 * keep:g}%, sample {sample.hash[:8]}"  # shards of other first passes have other names
    return score_table(_rows(source), spec, out, asset, shard_rows, engine, int(rows.n)), found


def _first_pass(model: ModelSpec, sample: Sample, keep: float, out: Path) -> FirstPass | None:
    """The recorded first pass if it is for this model, share and sample; otherwise fits and records one."""
    from rsqa_pipeline.curated_subsets.scoring.fit_first_pass import fit_first_pass
    from rsqa_pipeline.score_model.scoring.scorer import Scorer

    path = first_pass_path(out)
    if path.is_file():
        recorded = FirstPass.read(path)
        if (recorded.model_version, recorded.keep, recorded.sample) == (model.version, keep, sample.hash):
            return recorded
    scorer = model.load(0)
    assert isinstance(scorer, Scorer)
    found = fit_first_pass(scorer, sample, keep)
    if found is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        found.write(path)
    return found


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
