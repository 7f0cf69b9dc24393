"""Reads a score file of `rsqa score`, with or without the file that was scored."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsqa_pipeline.curated_subsets.selection.first_pass_drops import refuse_first_pass
from rsqa_pipeline.curated_subsets.selection.score_file import curate_data
from rsqa_pipeline.curated_subsets.selection.score_frame import read_scores, select_rows
from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.explorer.exploration import Exploration, ExploredSample, drawn, quarantined, rule_words
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import RowFault, SourceRow

_SCORED = ("score", "image", "image_hash", "note")


def read_score_file(scores: Path, rule: SubsetRule, source: SourceFile | None, limit: int, seed: int) -> Exploration:
    """The rows of a score file as ``rule`` decides on them, and the rows that could not be scored.

    Decisions are those of ``rsqa curate`` on the same files.

    Args:
        source: the scored file. Without it the page has no texts, classes or tasks.
        limit: largest number of samples; beyond it they are drawn by hash.

    Raises:
        DataError: a file cannot be used. UsageError: no row has a score.
    """
    refused = _refused(scores)
    if source is None:
        refuse_first_pass(scores)
        samples = list(_without_data(scores, rule, seed))
        samples += [sample for sample in refused.values() if sample.key not in {known.key for known in samples}]
    else:
        samples = list(_with_data(scores, rule, source, refused, seed))
    if not any(sample.score is not None for sample in samples):
        raise UsageError(f"{scores} has no row with a finite score; make it with `rsqa score`")
    wanted = drawn((sample.key for sample in samples), limit)
    shown = [sample for sample in samples if wanted is None or sample.key in wanted]
    return Exploration(f"Scores {scores.name}", shown, len(samples))


def _refused(scores: Path) -> dict[str, ExploredSample]:
    """The rows that `rsqa score` quarantined, by key."""
    table = scores.with_name(f"{scores.stem}.quarantine.parquet")
    rows = read_table(table) if table.is_file() else []
    return {row["sample_id"]: quarantined(row) for row in rows}


def _score_rows(scores: Path) -> list[dict[str, Any]]:
    """The rows of the file, images found from its folder; a score that is not finite is missing."""
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in read_scores(scores).to_dict("records")
    ]
    for row in rows:
        row |= {name: None for name in _SCORED if isinstance(row.get(name), float) and not math.isfinite(row[name])}
    return rows


def _without_data(scores: Path, rule: SubsetRule, seed: int) -> Iterator[ExploredSample]:
    frame = read_scores(scores)
    decisions = select_rows(frame, rule, seed).to_dict("records")
    for row, decided in zip(_score_rows(scores), decisions, strict=True):
        ranked = not decided["kept"] and not math.isnan(decided["rank"])  # as in the tables of `rsqa curate`
        yield ExploredSample(
            key=decided["key"],
            state="kept" if decided["kept"] else "dropped",
            reason=None if decided["kept"] else decided["reason"],
            rule=decided["rule"],
            rank=int(decided["rank"]) if ranked else None,
            percentile=decided["percentile"] if ranked else None,
            score=row.get("score", row.get("score_model")),
            image=row.get("image"),
            image_id=row.get("image_hash"),
            note=row.get("note"),
            **{name: row[name] for name in ("kind", "source", "scene_class", "task") if isinstance(row.get(name), str)},
        )


def _with_data(
    scores: Path, rule: SubsetRule, source: SourceFile, refused: dict[str, ExploredSample], seed: int
) -> Iterator[ExploredSample]:
    with tempfile.TemporaryDirectory() as scratch:
        _, kept = curate_data(scores, source, rule, seed, Path(scratch))
        rows = read_table(Path(scratch) / "explained.parquet")
    dropped = {row["key"]: row for row in reversed(rows)}  # faults of rows with a repeated key come last
    scored = {str(row.get("key", row.get("sample_id"))): row for row in _score_rows(scores)}
    seen: set[str] = set()
    for entry in read_source(source):
        again = entry.key in seen
        seen.add(entry.key)
        if isinstance(entry, RowFault):
            row = {"sample_id": entry.key, "reason": entry.reason, "detail": entry.detail}
            yield quarantined(row)
        elif again:
            detail = "an earlier row of the file has this id"
            yield quarantined({"sample_id": entry.key, "reason": "duplicate_id", "detail": detail})
        else:
            yield _sample(entry, rule, None if entry.key in kept else dropped[entry.key], scored, refused)


def _sample(
    row: SourceRow,
    rule: SubsetRule,
    dropped: dict[str, Any] | None,
    scored: dict[str, dict[str, Any]],
    refused: dict[str, ExploredSample],
) -> ExploredSample:
    kind = "caption" if len(row.messages) == 1 else "instruction"
    about = scored.get(row.key, {})
    stale = dropped is not None and dropped["reason"] == "stale_score"
    fault = refused.get(row.key) if dropped is not None and dropped["reason"] == "no_score" else None
    decided = {name: dropped[name] for name in ("reason", "rule", "rank", "percentile")} if dropped else {}
    if fault is not None:
        decided = {"reason": fault.reason}
    return ExploredSample(
        key=row.key,
        state="quarantined" if fault else "dropped" if dropped else "kept",
        **{"rule": rule_words(rule, kind), **decided},
        kind=kind,
        score=None if stale else about.get("score", about.get("score_model")),
        source=row.source,
        scene_class=row.scene_class,
        task=row.task,
        fault=fault.fault if fault else None,
        detail=fault.detail if fault else None,
        note=about.get("note"),
        image=row.image,
        image_id=about.get("image_hash"),
        messages=row.messages,
    )
