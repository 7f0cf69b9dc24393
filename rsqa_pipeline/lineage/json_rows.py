"""JSON of large tables, written column by column: no row is ever an object of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

import pandas as pd

_BATCH_ROWS = 50_000


def json_with_rows(facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Parts of the text that ``json.dumps(..., indent=1, sort_keys=True)`` gives for the facts and, under their names,
    the tables as lists of rows. Numbers have 15 decimals, missing values are null.

    Args:
        tables: their cells are texts, numbers or missing. No fact has the name of one.
    """
    text = json.dumps({**facts, **{name: [] for name in tables}}, indent=1, sort_keys=True)
    for name in sorted(tables):
        before, text = text.split(f"\n {json.dumps(name)}: []", 1)  # only keys of the outermost level stand so
        yield f"{before}\n {json.dumps(name)}: ["
        yield from _rows(tables[name])
        yield "\n ]" if len(tables[name]) else "]"
    yield text


def _rows(table: pd.DataFrame) -> Iterator[str]:
    names = sorted(map(str, table))
    cells = ",\n".join(f"   {json.dumps(name)}: ".replace("%", "%%") + "%s" for name in names)
    row = f"\n  {{\n{cells}\n  }}"
    for start in range(0, len(table), _BATCH_ROWS):
        batch = table[start : start + _BATCH_ROWS]
        columns = [_cells(batch[name]) for name in names]
        yield ("," if start else "") + ",".join([row % values for values in zip(*columns, strict=True)])


def _cells(column: pd.Series) -> list[str]:
    """Each value as JSON."""
    if pd.api.types.is_numeric_dtype(column):  # the encoder writes a list of numbers at once
        numbers = column.to_json(orient="values", double_precision=15)  # type: ignore[call-overload]
        return json.dumps(json.loads(numbers))[1:-1].split(", ")
    values = [None if pd.isna(value) else value for value in column.tolist()]
    return [encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value) for value in values]
