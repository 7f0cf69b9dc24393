"""Whatever a text holds, the page shows it as text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsqa_pipeline.report import blocks
from rsqa_pipeline.report.blocks import Cell
from rsqa_pipeline.report.curation_report import render


class Events(HTMLParser):
    """Everything that a browser makes of a page: tags with their attributes, comments, texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[object] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", data))

    def handle_data(self, data: str) -> None:
        if self.found and isinstance(self.found[-1], str):
            self.found[-1] += data
        else:
            self.found.append(data)


def page_of(text: str) -> str:
    """A page that holds the text wherever a page can hold one."""
    cell = Cell(text, interval=text, note=text, key=text)
    shown = [
        blocks.Table(text, [text], [[cell]], groups=[(text, 1)], note=text),
        blocks.Plots([blocks.Plot("data:,", text, text)]),
        blocks.Tiles([blocks.Tile(text, cell, [(text, cell)])]),
        blocks.Gallery(text, [blocks.Card(None, [("user", text)], [(text, text)], "best")]),
        blocks.Paragraph(text),
    ]
    section = blocks.ReportSection(text, text, [*shown, blocks.Collapsible(text, shown)], lead=text)
    return render([section], text, text, text)


@settings(deadline=None, max_examples=30)
@given(st.text("[]/()<>&*_`~$#:=@|\\'\"-!ab; {}%", min_size=1, max_size=30).filter(str.strip))
@example("</style><script>x</script>")
@example('" onerror="alert(1)')
@example("{{ 7*7 }}{% raw %}")
@example("<!-- -->&lt;&#60;&amp;")
def test_any_text_is_text_in_the_page(text: str) -> None:
    """The page is the one of a harmless text, with that text replaced."""
    assert Events(page_of(text)).found == with_text(Events(page_of("PLACEHOLDER")).found, text)


def with_text(found: Any, text: str) -> Any:
    """What was found of a page of "PLACEHOLDER", with that word replaced."""
    if isinstance(found, list | tuple):
        return type(found)(with_text(part, text) for part in found)
    return found.replace("PLACEHOLDER", text) if isinstance(found, str) else found
