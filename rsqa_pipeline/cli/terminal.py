"""The one way to print to the terminal: text is shown as it is, whatever brackets, colons or control characters it
contains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Characters that a terminal obeys instead of showing them (C0, C1, direction of writing), as Python writes them."""


class PlainConsole(Console):
    """A console that shows control characters of texts as escapes: one in a caption or a file name could clear the
    screen, or hide what follows."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A plain string, with escapes before its width is measured."""
        return super().render_str(text.translate(_CONTROL), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The renderable as pieces of text; rich's own control codes are kept."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(_CONTROL), style, control)


def make_console(stderr: bool = False) -> Console:
    """A console that reads no markup: ``[gpu]`` or ``[/red]`` in a path, an asset or a caption is text, not a style.

    Pass ``style=`` or a `rich.text.Text` for styled output. The width is the terminal's, or 80 columns in a log.
    """
    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def plain_table(*headers: str) -> Table:
    """A table without borders, which leaves its 80 columns to the cells. The first column is never cut."""
    table = Table(box=None, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=number == 0)
    return table
