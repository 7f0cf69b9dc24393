"""Selects from a score file without a pipeline: with its data file in memory, or alone, streamed at any length."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, apply_rule
from rsqa_pipeline.curated_subsets.selection.apply_rule_streaming import apply_rule_streaming
from rsqa_pipeline.curated_subsets.selection.explain import (
    DROPPED,
    SHARE_COLUMNS,
    Shares,
    answer_words,
    dropped_rows,
    write_shares,
)
from rsqa_pipeline.curated_subsets.selection.score_reader import ScoreTable
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import write_table
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import SourceRow

KEPT = pa.schema([("key", pa.string())])


@dataclass(frozen=True)
class SelectionResult:
    """Result of a selection; its tables are in the output folder."""

    kept: int
    dropped: Counter[str]
    """Dropped rows by reason."""
    shares: list[dict[str, Any]]


def read_rule(path: Path) -> SubsetRule:
    """Reads a rule from a YAML file. Raises DataError with every fault if it is not a valid rule."""
    try:
        return SubsetRule.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        faults = [".".join(str(p) for p in fault["loc"]) + ": " + fault["msg"] for fault in error.errors()]
        raise DataError(f"{path} is not a rule: {'; '.join(fault.removeprefix(': ') for fault in faults)}") from None


def curate_scores(scores: Path, rule: SubsetRule, seed: int, folder: Path) -> SelectionResult:
    """Streams the score file and writes ids.parquet (in the file's order), explained.parquet, shares.json, rule.json.

    Raises:
        DataError: see `apply_rule_streaming`.
    """
    table = ScoreTable(scores)
    folder.mkdir(parents=True, exist_ok=True)
    shares, reasons = Shares(), Counter[str]()
    by = [name for name in SHARE_COLUMNS if name in table.columns and name != "words"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        selected = apply_rule_streaming(table, rule, seed, Path(scratch))
        with pq.ParquetWriter(folder / "ids.parquet", KEPT) as kept:
            for start, batch in table.batches([table.id, *by, *(["kind"] if "kind" in table.columns else [])]):
                taken = selected.kept[start : start + len(batch)]
                kept.write_batch(pa.record_batch([batch.column(0).filter(pa.array(taken)).cast(pa.string())], KEPT))
                if by:
                    frame = batch.to_pandas()
                    shares.add(frame if "kind" in frame else frame.assign(kind="sample"), taken)
        with pq.ParquetWriter(folder / "explained.parquet", DROPPED) as dropped:
            for rows in selected.explain(~selected.kept):
                for entry in pc.value_counts(rows.column("reason")).to_pylist():
                    reasons[entry["values"]] += entry["counts"]
                dropped.write_batch(rows)
    return _finish(folder, rule, seed, int(selected.kept.sum()), reasons, shares)


def curate_data(
    scores: Path, source: SourceFile, rule: SubsetRule, seed: int, folder: Path
) -> tuple[SelectionResult, Collection[str]]:
    """Selects from the rows of a data file and writes the files of `curate_scores`; shares are also by length.

    A row without a score is dropped with reason ``no_score``, an unreadable row with the reader's reason, and a row
    with a repeated key with ``duplicate_id``. Also returns the kept keys.

    Raises:
        DataError: the data file or the score file cannot be used, or they have no key in common.
    """
    rows, faults = _read(source)
    samples = _join_scores(pd.DataFrame(rows), scores)
    decisions = apply_rule(samples, rule, seed)
    kept = samples.loc[decisions["kept"], "sample_id"].tolist()
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "ids.parquet", KEPT, [{"key": key} for key in kept])
    write_table(folder / "explained.parquet", DROPPED, [*dropped_rows(samples, decisions), *faults])
    shares = Shares()
    shares.add(samples, decisions["kept"].to_numpy())
    reasons = Counter([*decisions["reason"].dropna(), *(fault["reason"] for fault in faults)])
    return _finish(folder, rule, seed, len(kept), reasons, shares), set(kept)


def _read(source: SourceFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to select from, and rows of DROPPED for the unusable rows."""
    rows: dict[str, dict[str, Any]] = {}
    faults = []
    for row in read_source(source):
        if not isinstance(row, SourceRow):
            faults.append({"key": row.key, "reason": row.reason})
        elif row.key in rows:
            faults.append({"key": row.key, "reason": "duplicate_id"})
        else:
            kind = "caption" if len(row.messages) == 1 else "instruction"
            about = {"source": row.source, "scene_class": row.scene_class, "task": row.task, "image": row.image}
            rows[row.key] = {"sample_id": row.key, "kind": kind, **about, "words": answer_words(row.messages)}
    return list(rows.values()), faults


def _join_scores(samples: pd.DataFrame, scores: Path) -> pd.DataFrame:
    table = ScoreTable(scores)
    if samples.empty:
        raise DataError("the data file has no readable row")
    positions = pd.Series(samples.index, index=samples["sample_id"])
    columns = {name: name if name in table.columns else "score" for name in SCORED}
    columns = {name: column for name, column in columns.items() if name == "score_model" or column == name}
    for name, column in columns.items():
        values = np.full(len(samples), np.nan)
        for _, batch in table.batches([table.id, table.column(column)]):
            found = positions.reindex(batch.column(0).to_pylist()).to_numpy(dtype=float)
            known = ~np.isnan(found)
            values[found[known].astype(int)] = batch.column(1).to_numpy(zero_copy_only=False)[known]
        if np.isnan(values).all():
            raise DataError(f"{scores} has no score for any row of the data file; does it belong to another file?")
        samples = samples.assign(**{name: values})
    return samples


def _finish(
    folder: Path, rule: SubsetRule, seed: int, kept: int, reasons: Counter[str], shares: Shares
) -> SelectionResult:
    counted = shares.rows()
    write_shares(folder / "shares.json", counted)
    facts = {"rule": rule.model_dump(exclude_defaults=True), "seed": seed, "kept": kept, "dropped": dict(reasons)}
    (folder / "rule.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return SelectionResult(kept, reasons, counted)
