"""Pages of a package for a browser: every Markdown document as HTML beside it, with the same links."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rsqa_pipeline.lineage.page import document, is_long

_METADATA = re.compile(r"\A---\n.*?\n---\n", re.S)
"""What the hub reads of a card; people read the text."""


def write_pages(package: Path) -> None:
    """Writes ``NAME.html`` beside each ``NAME.md`` of the folder."""
    for source in sorted(package.rglob("*.md")):
        source.with_suffix(".html").write_text(as_page(source.read_text(encoding="utf-8")), encoding="utf-8")


def as_page(markdown: str) -> str:
    """A document as HTML. Its title is its first heading; markup in it is shown as text.

    Links to Markdown documents lead to their pages.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(_METADATA.sub("", markdown))
    titles = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[number + 1].content))
        elif token.type == "td_open" and is_long(_shown(tokens[number + 1])):
            token.attrSet("class", "text")
        for part in token.children or []:
            if part.type == "link_open":
                part.attrSet("href", re.sub(r"\.md$", ".html", str(part.attrGet("href"))))
    body = str(parser.renderer.render(tokens, parser.options, {}))
    body = body.replace("<table>", '<div class="rows" tabindex="0"><table>').replace("</table>", "</table></div>")
    return document(titles[0], body)


def _anchor(title: str) -> str:
    """Name of a heading in links, as code hosts make it."""
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def _shown(cell: Token) -> str:
    """The text of a cell without the addresses of its links."""
    return "".join(part.content for part in cell.children or [])
