"""The one way to print to the terminal: text is shown as it is, whatever brackets or colons it contains."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def make_console(stderr: bool = False) -> Console:
    """A console that reads no markup: ``[gpu]`` or ``[/red]`` in a path, an asset or a caption is text, not a style.

    Pass ``style=`` or a `rich.text.Text` for styled output. The width is the terminal's, or 80 columns in a log.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def plain_table(*headers: str) -> Table:
    """A table without borders, which leaves its 80 columns to the cells. The first column is never cut."""
    table = Table(box=None, pad_edge=False)
    for number, header in enumerate(headers):
        table.add_column(header, overflow="fold", no_wrap=number == 0)
    return table
