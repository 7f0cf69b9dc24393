"""Selects from a score file without a pipeline: with its data file in memory, or alone, streamed at any length."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, SPREAD, apply_rule
from rsqa_pipeline.curated_subsets.selection.apply_rule_streaming import apply_rule_streaming
from rsqa_pipeline.curated_subsets.selection.explain import (
    DROPPED,
    SHARE_COLUMNS,
    Shares,
    answer_words,
    dropped_rows,
    write_shares,
)
from rsqa_pipeline.curated_subsets.selection.first_pass_drops import first_pass_drops, refuse_first_pass
from rsqa_pipeline.curated_subsets.selection.score_reader import HASH_COLUMNS, ScoreTable
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.images.decode import ImageFault, content_hash
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.profile.yaml_file import YamlFault, read_yaml
from rsqa_pipeline.records import canonical_messages, sha256, write_table
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
        return SubsetRule.model_validate(read_yaml(path))
    except YamlFault as fault:
        raise DataError(f"{path} cannot be read: {fault}") from None
    except ValidationError as error:
        faults = [".".join(str(p) for p in fault["loc"]) + ": " + fault["msg"] for fault in error.errors()]
        raise DataError(f"{path} is not a rule: {'; '.join(fault.removeprefix(': ') for fault in faults)}") from None


def curate_scores(scores: Path, rule: SubsetRule, seed: int, folder: Path) -> SelectionResult:
    """Streams the score file and writes ids.parquet (in the file's order), explained.parquet, shares.json, rule.json.

    Raises:
        DataError: see `apply_rule_streaming`. UsageError: no row can be ranked, or a first pass dropped some.
    """
    refuse_first_pass(scores)
    table = ScoreTable(scores)
    folder.mkdir(parents=True, exist_ok=True)
    shares, reasons = Shares(), Counter[str]()
    by = [name for name in SHARE_COLUMNS if name in table.columns and name != "words"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        selected = apply_rule_streaming(table, rule, seed, Path(scratch))
        if not selected.scored:
            raise UsageError(f"{scores} has no row with a finite score that the rule could rank")
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
    """Selects from the scored rows of a data file and writes the files of `curate_scores`; shares are also by length.

    Content decides which score is a row's: a score file of `rsqa score` holds the hashes of the image and text that
    were scored. A row whose content is another one now is dropped with reason ``stale_score``, a row without a score
    with ``no_score``, an unreadable row with the reader's reason, and a row with a repeated key with ``duplicate_id``.
    The rule's fractions count the other rows, and those that a first pass dropped (``cannot_be_kept``). Also returns
    the kept keys.

    Raises:
        DataError: the data file or the score file cannot be used. UsageError: no row of the data file has a score, or
            the rule needs scores of rows that a first pass dropped.
    """
    rows, faults = _read(source)
    samples, unscored = _join_scores(rows, scores)
    dropped = first_pass_drops(scores)
    decisions = apply_rule(samples, dropped.rule_for(rule, samples, unscored, rows) if dropped else rule, seed)
    kept = samples.loc[decisions["kept"], "sample_id"].tolist()
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "ids.parquet", KEPT, [{"key": key} for key in kept])
    write_table(folder / "explained.parquet", DROPPED, [*dropped_rows(samples, decisions), *unscored, *faults])
    shares = Shares()
    shares.add(samples, decisions["kept"].to_numpy())
    reasons = Counter([*decisions["reason"].dropna(), *(fault["reason"] for fault in (*unscored, *faults))])
    return _finish(folder, rule, seed, len(kept), reasons, shares), set(kept)


def _read(source: SourceFile) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The rows to select from by key, and rows of DROPPED for the unusable rows."""
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
            text = {"words": answer_words(row.messages), "text_hash": sha256(canonical_messages(row.messages))}
            rows[row.key] = {"sample_id": row.key, "kind": kind, **about, **text}
    return rows, faults


def _join_scores(rows: Mapping[str, dict[str, Any]], scores: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows with a score of their present content, and rows of DROPPED for the others."""
    if not rows:
        raise DataError("the data file has no readable row")
    table = ScoreTable(scores)
    selectors = {name: name for name in SCORED if name in table.columns}
    selectors.setdefault("score_model", table.column("score_model"))
    read = selectors | ({SPREAD: SPREAD} if SPREAD in table.columns else {})
    hashes = [name for name in HASH_COLUMNS if name in table.columns]
    found: dict[str, dict[str, Any]] = {}
    stale: set[str] = set()
    content = _Content(hashes)
    for _, batch in table.batches(list(dict.fromkeys([table.id, *read.values(), *hashes]))):
        for values in batch.to_pylist():
            row = rows.get(values[table.id])
            if row is None:
                continue
            if content.is_same(row, values):
                numbers = {name: np.nan if (value := values[of]) is None else value for name, of in read.items()}
                found[row["sample_id"]] = {**row, **numbers}
            else:
                stale.add(row["sample_id"])
    scored = {key: row for key, row in found.items() if any(np.isfinite(row[name]) for name in selectors)}
    if not scored:
        outdated = f"; {len(stale)} scores are of other content, score them with --rescore" if stale else ""
        raise UsageError(
            f"{scores} has no score for any row of the data file; does it belong to another file?{outdated}"
        )
    unscored = [
        {"key": key, "kind": row["kind"], "reason": "stale_score" if key in stale else "no_score"}
        for key, row in rows.items()
        if key not in scored
    ]
    return pd.DataFrame([scored[key] for key in rows if key in scored]), unscored


class _Content:
    """Compares rows with the hashes of what was scored; each image is read once."""

    def __init__(self, hashes: Collection[str]) -> None:
        self._hashes = hashes
        self._images: dict[str, str | None] = {}

    def is_same(self, row: Mapping[str, Any], scored: Mapping[str, Any]) -> bool:
        """Whether the row has the image and text that were scored; a score without any hash is taken by its key."""
        known = {name: scored[name] for name in self._hashes}
        if not any(known.values()):
            return True
        if known.get("text_hash", row["text_hash"]) != row["text_hash"]:
            return False
        return "image_hash" not in known or known["image_hash"] == self._image_hash(row["image"])

    def _image_hash(self, image: str | None) -> str | None:
        """None without an image; an image that cannot be read equals nothing."""
        if image is not None and image not in self._images:
            try:
                self._images[image] = content_hash(image)
            except ImageFault as fault:
                self._images[image] = fault.reason
        return self._images[image] if image is not None else None


def _finish(
    folder: Path, rule: SubsetRule, seed: int, kept: int, reasons: Counter[str], shares: Shares
) -> SelectionResult:
    counted = shares.rows()
    write_shares(folder / "shares.json", counted)
    facts = {"rule": rule.model_dump(exclude_defaults=True), "seed": seed, "kept": kept, "dropped": dict(reasons)}
    (folder / "rule.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return SelectionResult(kept, reasons, counted)
