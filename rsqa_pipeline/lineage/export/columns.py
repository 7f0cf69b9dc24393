"""Columns of the tables of an asset, and the columns that they come from where the code fixes it.

A column is ``<table>.<column>``, e.g. ``scores.score`` for column ``score`` of ``scores.parquet``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from rsqa_pipeline.curated_subsets.corpus import TABLES
from rsqa_pipeline.curated_subsets.selection.subset import SCORES
from rsqa_pipeline.profile.curated_subsets import SubsetRule


@dataclass(frozen=True, order=True)
class ColumnSource:
    """A column of an input."""

    asset: str
    column: str
    how: str
    """``IDENTITY``: the value itself. ``TRANSFORMATION``: a function of it. ``FILTER``: decides which rows exist."""


@dataclass
class ColumnLineage:
    columns: dict[str, list[ColumnSource]] = field(default_factory=dict)
    """Output column -> what its values come from."""
    rows: list[ColumnSource] = field(default_factory=list)
    """What decides which rows the output has."""


def table_columns(folder: Path) -> dict[str, str]:
    """Type of every column of the folder's Parquet files."""
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        schema: pa.Schema = pq.read_schema(path)
        found.update({f"{path.stem}.{column.name}": str(column.type) for column in schema})
    return found


def column_lineage(record: Mapping[str, Any]) -> ColumnLineage | None:
    """Column lineage of a table of scores or of a subset; None for other assets, where it is not declared."""
    recipe = record["recipe"]
    tables = [name for name in TABLES if name in recipe["inputs"]]
    if record["asset"] in SCORES.values():
        shown = ("samples.image", "samples.messages")
        return ColumnLineage(
            {
                "scores.sample_id": [ColumnSource(name, "samples.sample_id", "IDENTITY") for name in tables],
                "scores.score": [ColumnSource(name, part, "TRANSFORMATION") for name in tables for part in shown],
            },
            [ColumnSource(name, "samples.split", "FILTER") for name in tables],
        )
    name = str(record["asset"]).removeprefix("subset_")
    try:
        rule = SubsetRule.model_validate(recipe["settings"][f"curated_subsets.subsets.{name}"])
    except (KeyError, ValidationError):  # another asset, or a rule as an earlier version of this package had it
        return None
    by = [ColumnSource(SCORES[key], "scores.score", "FILTER") for key in sorted(rule.selectors & set(SCORES))]
    by += [ColumnSource(table, "samples.true_quality", "FILTER") for table in tables if "oracle" in rule.selectors]
    lineage = ColumnLineage(
        {
            "ids.sample_id": [ColumnSource(table, "samples.sample_id", "IDENTITY") for table in tables],
            "explained.key": [ColumnSource(table, "samples.sample_id", "IDENTITY") for table in tables],
        },
        [*(ColumnSource(table, "samples.split", "FILTER") for table in tables), *by],
    )
    if rule.selector and by:  # the rank of a union or intersection is that of its parts
        ranked = [ColumnSource(source.asset, source.column, "TRANSFORMATION") for source in by]
        lineage.columns |= {"explained.rank": ranked, "explained.percentile": ranked}
    return lineage
