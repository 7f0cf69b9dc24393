"""``rsqa score``: a score for every row of a file in a known format, without a pipeline around it.

Rows are scored shard by shard. A shard appears whole or not at all, so a killed run is gone on with by the same command
and no finished shard is scored again. Every row ends in the scores or, with a reason, in the quarantine.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from rsqa_pipeline.curated_subsets.score_corpus import CorpusScorer, score_rows
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.hashes import file_md5
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.records import QUARANTINE
from rsqa_pipeline.score_model.model import ScoreModel
from rsqa_pipeline.source_pairs.clean import text_fault
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault

STAGE = "score"
FILE_SCORE = pa.schema(
    [
        ("key", pa.string()),  # the reader's own id of the row
        ("image", pa.string()),  # as the reader resolved it
        ("score", pa.float32()),
        ("model_version", pa.string()),  # hash of the scoring model's weights
    ]
)
"""Example: ``{"key": "airport_1.jpg/0", "image": "RSICD_images/airport_1.jpg", "score": 2.31,
"model_version": "5be1c0.."}``"""


def score_file(scorer: CorpusScorer, source: SourceFile, out: Path, shard_rows: int) -> tuple[int, Counter[str]]:
    """Writes ``out`` (rows of FILE_SCORE in the file's order) and, beside it, ``<stem>.quarantine.parquet``.

    Args:
        source: format and path of the file; what else it says (limit, class names) is followed too.
        out: a Parquet file; its shards stand beside it in ``<stem>.shards`` until all are done.

    Returns:
        Rows scored, and the quarantined ones by reason.

    Raises:
        DataError: the file as a whole cannot be read, or the shards found are of other data or another model.
    """
    assert source.path is not None
    shards = out.with_name(f"{out.stem}.shards")
    made_from = {"data": _content(Path(source.path)), "model": scorer.version, "shard_rows": shard_rows}
    _claim(shards, made_from)
    entries = read_source(source)
    seen: set[str] = set()
    with tqdm(total=len(entries), desc="score", unit="row") as bar:
        for number, shard in enumerate(_shards(entries, shard_rows)):
            # ids are looked at in finished shards too: a repeat of one of theirs is no row of its own
            rows, refused = _usable(shard, seen)
            file = shards / f"{number:06d}.scores.parquet"
            if not file.is_file():
                scored, faults = score_rows(rows, scorer, STAGE)
                images = {row["sample_id"]: row["image"] for row in rows}
                table = [
                    {"key": row["sample_id"], "image": images[row["sample_id"]], **_without_id(row)} for row in scored
                ]
                _write(shards / f"{number:06d}.quarantine.parquet", QUARANTINE, [*refused, *faults])
                _write(file, FILE_SCORE, table)  # last: it says that the shard is done
            bar.update(len(shard))
    reasons = _merge(shards, "quarantine", QUARANTINE, out.with_name(f"{out.stem}.quarantine.parquet"))
    scored_rows = _merge(shards, "scores", FILE_SCORE, out)
    shutil.rmtree(shards)
    return scored_rows.num_rows, Counter(reasons.column("reason").to_pylist())


def score_tensors(model: ScoreModel, file: Path, version: str, out: Path) -> int:
    """Scores rows that a processor has prepared already, and writes rows of FILE_SCORE; keys are their numbers.

    Args:
        file: ``.npz`` with ``input_ids`` and ``attention_mask`` (rows, tokens) and, for images, ``pixel_values``
            (patches, values) and ``image_grid_thw`` (images, 3); what else it holds is left alone.

    Raises:
        DataError: no such file, or an array is missing.
    """
    try:
        with np.load(file) as arrays:
            names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
            found = {name: torch.from_numpy(arrays[name]) for name in names if name in arrays}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no .npz file of arrays: {error}") from error
    missing = {"input_ids", "attention_mask"} - set(found)
    if missing:
        raise DataError(f"{file}: {', '.join(sorted(missing))} missing; it holds {', '.join(sorted(found)) or 'none'}")
    with torch.inference_mode():
        scores = model(**found).tolist()
    rows = [{"key": str(n), "image": None, "score": s, "model_version": version} for n, s in enumerate(scores)]
    _write(out, FILE_SCORE, rows)
    return len(rows)


def _content(path: Path) -> str:
    """What tells whether the data are the same: a file's md5, a folder's path."""
    if not path.exists():
        raise DataError(f"no file or folder {path}")
    return file_md5(path) if path.is_file() else str(path.resolve())


def _claim(shards: Path, made_from: dict[str, Any]) -> None:
    note = shards / "made_from.json"
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found != made_from:
            different = ", ".join(key for key in made_from if found.get(key) != made_from[key])
            raise DataError(f"{shards} holds shards of another run ({different} differ); delete it to start anew")
        return
    shards.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(made_from), encoding="utf-8")


def _shards(entries: Sequence[Entry], rows: int) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), rows):
        yield entries[start : start + rows]


def _usable(entries: Sequence[Entry], seen: set[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows to score, and rows of QUARANTINE."""
    rows, refused = [], []
    for entry in entries:
        if isinstance(entry, RowFault):
            fault: tuple[str, str] | None = (entry.reason, entry.detail)
        elif entry.key in seen:
            fault = ("duplicate_id", f"the file has the id {entry.key!r} before")
        else:
            fault = text_fault(entry.messages)
        seen.add(entry.key)
        if fault is not None:
            refused.append({"stage": STAGE, "sample_id": entry.key, "reason": fault[0], "detail": fault[1]})
        elif not isinstance(entry, RowFault):
            rows.append({"sample_id": entry.key, "image": entry.image, "messages": entry.messages})
    return rows, refused


def _without_id(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "sample_id"}


def _write(path: Path, schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> None:
    scratch = path.with_suffix(".scratch")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), scratch)
    scratch.replace(path)


def _merge(shards: Path, name: str, schema: pa.Schema, out: Path) -> pa.Table:
    tables = [pq.read_table(part, schema=schema) for part in sorted(shards.glob(f"*.{name}.parquet"))]
    merged = pa.concat_tables(tables) if tables else schema.empty_table()
    scratch = out.with_suffix(".scratch")
    pq.write_table(merged, scratch)
    scratch.replace(out)
    return merged
