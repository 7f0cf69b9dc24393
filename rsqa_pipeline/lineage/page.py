"""A lineage as one HTML page without outside files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1c2733}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #dde3ea;vertical-align:top;overflow-wrap:anywhere}
th{background:#f3f6f9;position:sticky;top:0}.rows{overflow:auto;max-height:36rem;border:1px solid #dde3ea}
"""
Rows = Sequence[Mapping[str, Any]]


def page(title: str, facts: Mapping[str, Any], tables: Mapping[str, Rows]) -> str:
    """The page: a list of facts, then each table with a heading, its number of rows and all rows.

    Every text is escaped: captions may hold markup.
    """
    listed = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
    parts = [_table(name, rows) for name, rows in tables.items() if rows]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
        f"<h1>{_text(title)}</h1><table>{listed}</table>{''.join(parts)}</html>\n"
    )


def _table(name: str, rows: Rows) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
    return (
        f'<h2>{_text(name)} ({len(rows)})</h2><div class="rows"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return escape(text[:16] + "…" if len(text) == 64 and " " not in text else text)
