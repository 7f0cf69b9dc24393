"""Scores a corpus shard by shard into one table. All engines give the same rows, in corpus order.

A run can be killed at any moment:

- A shard's tables are written atomically (scratch file, then rename). The next run skips finished shards, with any
  batch size, device, engine or number of workers: a shard's name contains its position and a hash of its rows, the
  model version and the previous table. With another ``shard_rows`` the shards differ and are scored again. A kill costs
  the shards that were being scored, one per worker.
- The table itself is written atomically at the end; until then the previous table is kept.

Shards and table carry a hash of themselves (`sealed_table`), which is checked before any of them is reused.

How the previous table is used: a row whose image bytes and text already have a score by the same model version keeps
it and is not scored again, so a grown corpus only costs its new rows. A row scored by other models keeps those scores
in separate columns (``score@<version>``). Quarantined rows are tried again. Rows that are no longer in the corpus are
removed from the table.

Memory does not grow with the corpus: rows are streamed, look-ups are on disk, shards are merged one by one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from rsqa_pipeline.curated_subsets.scoring.earlier_scores import EarlierScores, SeenIds
from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.scorers import ScorerSpec
from rsqa_pipeline.curated_subsets.scoring.sealed_table import SealedWriter, is_whole
from rsqa_pipeline.curated_subsets.scoring.worker import ScoringJob, Shard, ShardRow
from rsqa_pipeline.files import acquire
from rsqa_pipeline.quarantine import printable, quarantine_row
from rsqa_pipeline.records import QUARANTINE, Message, canonical_messages, sha256
from rsqa_pipeline.source_pairs.clean import text_fault
from rsqa_pipeline.source_pairs.source_row import RowFault

log = logging.getLogger(__name__)

_ROW_GROUP = 20_000
"""Rows per row group of the table; shards can be smaller."""


@dataclass(frozen=True)
class ScoreRow:
    """A row to score, as passed by the caller."""

    key: str
    image: str | None
    messages: list[Message]
    image_hash: str | None = None
    """sha256 of the image's bytes if the caller knows it; otherwise it is computed from the image."""


@dataclass
class ScoreCounts:
    """Row counts of a table of scores."""

    rows: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    """Rows by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """Scored rows by note."""


def quarantine_path(out: Path) -> Path:
    """Path of the table of rows without a score."""
    return out.with_name(f"{out.stem}.quarantine.parquet")


def score_table(
    rows: Iterable[ScoreRow | RowFault],
    scorer: ScorerSpec,
    out: Path,
    asset: str,
    shard_rows: int,
    engine: Engine,
    total: int | None = None,
) -> ScoreCounts:
    """Writes ``out`` (rows of `worker.FILE_SCORE`) and ``<stem>.quarantine.parquet`` (of QUARANTINE) next to it.

    Every row ends up in one of the two. See the module's docstring for which rows are scored.

    Args:
        out: a Parquet file; its shards are next to it in ``<stem>.shards`` until all are finished.
        total: number of rows, to show the remaining time; None shows only the rate.

    Raises:
        DataError: ``out`` exists and is not such a table, or another run is writing it. EngineError, ModelError.
    """
    folder = out.resolve().with_name(f"{out.stem}.shards")
    with _locked(folder):
        earlier = EarlierScores.build(out, folder)
        job = ScoringJob(scorer, asset, folder, earlier[0] if earlier else None)
        seed = f"{asset} {scorer.version} {earlier[1] if earlier else ''}"
        names: list[str] = []
        seen = SeenIds(folder / "ids.sqlite")
        with tqdm(total=total, desc=asset, unit="row", mininterval=1) as bar:

            def unfinished() -> Iterator[Shard]:
                for shard in _cut_into_shards(rows, shard_rows, seed, asset, seen):
                    names.append(shard.name)
                    if _is_finished(job, shard.name):
                        bar.update(len(shard))
                    else:
                        yield shard

            for done in engine.run(job, unfinished()):
                bar.update(done)
        seen.close()
        result = ScoreCounts()
        result.quarantined = _merge(map(job.quarantine, names), QUARANTINE, quarantine_path(out), "reason")[1]
        result.rows, result.notes = _merge(map(job.scores, names), job.schema(), out, "note")
        shutil.rmtree(folder)
    return result


def _is_finished(job: ScoringJob, name: str) -> bool:
    """Whether a shard's tables are there and unchanged. Changed ones are deleted and reported; the shard is scored."""
    tables = job.scores(name), job.quarantine(name)
    if not tables[0].is_file() or all(map(is_whole, tables)):
        return tables[0].is_file()
    log.warning("shard %s in %s has changed since it was written; it is scored again", name, job.folder)
    for table in tables:
        table.unlink(missing_ok=True)
    return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks the folder: two runs in one folder would mix up their scratch files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder, os.O_RDONLY)
    try:
        acquire(file, folder)
        yield
    finally:
        os.close(file)


def _cut_into_shards(
    rows: Iterable[ScoreRow | RowFault], shard_rows: int, seed: str, asset: str, seen: SeenIds
) -> Iterator[Shard]:
    remaining = iter(rows)
    number = 0
    while chunk := list(islice(remaining, shard_rows)):
        usable: list[ShardRow] = []
        refused: list[dict[str, str]] = []
        digest = hashlib.sha256(seed.encode())
        for row in chunk:
            text_hash = ""
            fault = _fault(row, seen)
            if fault is not None:
                refused.append(quarantine_row(asset, row.key, *fault))
            elif isinstance(row, ScoreRow):
                text_hash = sha256(canonical_messages(row.messages))
                usable.append(
                    {
                        "key": row.key,
                        "image": row.image,
                        "image_hash": row.image_hash,
                        "text_hash": text_hash,
                        "messages": row.messages,
                    }
                )
            parts = (row.key, row.image or "", getattr(row, "image_hash", None) or "", text_hash, str(fault))
            digest.update(sha256(*(part.encode("utf-8", "surrogatepass") for part in parts)).encode())
        yield Shard(f"{number:08d}-{digest.hexdigest()[:16]}", usable, refused)
        number += 1


def _fault(row: ScoreRow | RowFault, seen: SeenIds) -> tuple[str, str] | None:
    """(reason, detail) of a row that is refused without a model; None for a row to score."""
    new = seen.add(row.key)
    if isinstance(row, RowFault):
        return row.reason, row.detail
    if not new:
        return "duplicate_id", f"the file has the id {row.key!r} before"
    for name, value in (("id", row.key), ("image's name", row.image or "")):
        if printable(value) != value:
            return "not_utf8", f"the {name} has bytes that are not UTF-8: {value}"
    return text_fault(row.messages)


def _merge(parts: Iterable[Path], schema: pa.Schema, out: Path, counted: str) -> tuple[int, Counter[str]]:
    """Merges all parts, in order, into one table; returns its row count and the counts of each value of ``counted``.

    Holds one row group in memory at a time.
    """
    scratch = out.with_name(f"{out.name}.{os.getpid()}.scratch")
    rows, counts = 0, Counter[str]()
    with SealedWriter(scratch, schema) as writer:
        group: list[pa.Table] = []
        held = 0
        for part in parts:
            table = pq.read_table(part, schema=schema)
            counts.update(value for value in table.column(counted).to_pylist() if value is not None)
            group.append(table)
            held += len(table)
            rows += len(table)
            if held >= _ROW_GROUP:
                writer.write(pa.concat_tables(group))
                group, held = [], 0
        if group:
            writer.write(pa.concat_tables(group))
    scratch.replace(out)
    return rows, counts
