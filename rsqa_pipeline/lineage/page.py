"""HTML pages without outside files, for a screen and a phone, light and dark; a lineage as one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root{--page:#f6f7f9;--card:#fff;--ink:#1d2129;--soft:#5b6472;--line:#dde1e7;--link:#a02b41;
--shade:rgba(20,25,35,.22)}
@media (prefers-color-scheme:dark){
:root{--page:#14171c;--card:#1d2128;--ink:#e8eaee;--soft:#a3abb8;--line:#343a45;--link:#f0788c;
--shade:rgba(0,0,0,.6)}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:90rem;padding:1rem 1.25rem 3rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem}h2{font-size:1.15rem;margin:2rem 0 .75rem}
p,ul{max-width:75ch}a{color:var(--link)}code{font-size:.9em}pre{white-space:pre-wrap}
.rows,pre{overflow:auto;margin:1rem 0;background:var(--card);border:1px solid var(--line);border-radius:8px}
.rows{max-height:min(36rem,75vh);background:linear-gradient(to left,var(--card) 30%,transparent) right/48px 100%
no-repeat local,linear-gradient(to left,var(--shade),transparent) right/16px 100% no-repeat scroll,var(--card)}
pre{padding:.75rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;overflow-wrap:normal}
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}
thead th{position:sticky;top:0;background:var(--card);color:var(--soft);vertical-align:bottom}
th:empty{padding:0;border:0}tbody tr:last-child>*{border-bottom:0}
td.text{min-width:min(17rem,55vw);white-space:normal}
.facts{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.2rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0}
"""
_LONG_TEXT = 32
"""Characters from which on a text gets a wide column instead of many short lines."""
Rows = Sequence[Mapping[str, Any]]


def document(title: str, body: str) -> str:
    """An HTML document with the style of all pages.

    Args:
        body: HTML. Tables stand in ``<div class="rows">``, which scrolls; cells of class ``text`` are wide.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def page(title: str, facts: Mapping[str, Any], tables: Mapping[str, Rows]) -> str:
    """The page: a list of facts, then each table with a heading, its number of rows and all rows.

    Every text is escaped: captions may hold markup.
    """
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    parts = [_table(name, rows) for name, rows in tables.items() if rows]
    return document(title, f'<h1>{escape(title)}</h1><dl class="facts">{listed}</dl>{"".join(parts)}')


def is_long(text: str) -> bool:
    """Whether a cell's text needs a wide column: it is long, and has words to wrap at."""
    return len(text) > _LONG_TEXT and " " in text


def _table(name: str, rows: Rows) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in rows[0])
    body = "".join("<tr>" + "".join(map(_cell, row.values())) + "</tr>" for row in rows)
    return (
        f'<h2>{escape(name)} ({len(rows):,})</h2><div class="rows" tabindex="0" role="region" '
        f'aria-label="{escape(name)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "<td>–</td>"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    if len(text) == 64 and " " not in text:  # a sha256: its first characters identify it
        return f'<td title="{escape(text)}">{escape(text[:16])}…</td>'
    opened = '<td class="text">' if is_long(text) else "<td>"
    return f"{opened}{escape(text)}</td>"
