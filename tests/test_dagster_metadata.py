"""Rows of a table in the Dagster UI: whatever a text holds, it is shown as text in its own cell."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assets.metadata import _cell, _first_rows

MARKS = "|*_`~[](){}<>!#&\\:@.\n -+=ab1"


def cells(markdown: str) -> list[str]:
    """Contents of the cells of a table as a renderer that allows HTML and links sees them; fails on any markup."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children or []}
    assert kinds <= {"text", "text_special"}, markdown
    return ["".join(child.content for child in token.children or []) for token in inline]


@given(st.text(MARKS, max_size=60), st.text(MARKS, max_size=20))
def test_a_text_of_marks_is_one_cell_of_text(text: str, other: str) -> None:
    found = cells(f"| {_cell('a')} | {_cell('b')} |\n|---|---|\n| {_cell(text)} | {_cell(other)} |")
    assert found == ["a", "b", " ".join(text.split()), " ".join(other.split())]


@pytest.mark.parametrize(
    "text",
    ["<img src=x onerror=alert(1)>", "![x](http://a/b)", "[/red]", "**a**", "a | b", "https://a.example", "me@a.org"],
)
def test_marks_of_every_kind_are_shown_in_the_first_rows(tmp_path: Path, text: str) -> None:
    pq.write_table(pa.table({"t|ext": [text]}), tmp_path / "samples.parquet")
    markdown = _first_rows(tmp_path / "samples.parquet")
    assert cells(markdown) == ["t|ext", text]
    assert not set("<*[!@") & set(markdown.replace("---", "")) and unescape(_cell(text)) == text
