"""What a report page is made of. Sections build blocks; the template draws each kind of block in one way."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure

from rsqa_pipeline.plots import save
from rsqa_pipeline.statistics import Interval

UNKNOWN = "not known"
"""Stands where a figure is missing. A missing figure is never shown as 0."""


@dataclass(frozen=True)
class Cell:
    """One table cell: a figure with its interval below it, or words."""

    text: str
    interval: str = ""
    note: str = ""
    """Small words after the figure: a verdict, a chance level."""
    tint: str = ""
    """Colour of the dot before a subset's name; the same as in the plots."""
    key: str = ""
    """What the figure is, as ``data-key`` in the page: ``clip/score_model_30/classification/top1``."""
    number: bool = True
    strong: bool = False
    paper: bool = False
    """A figure of the paper's, set apart from ours."""


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    """Headings over several columns each: (words, number of columns)."""
    note: str = ""


@dataclass(frozen=True)
class Plot:
    kind: ClassVar[str] = "plot"
    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Plots:
    kind: ClassVar[str] = "plots"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Tile:
    label: str
    value: Cell
    detail: Sequence[tuple[str, Cell]] = ()


@dataclass(frozen=True)
class Tiles:
    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Card:
    """One sample of the gallery."""

    image: str | None
    """Data URI, missing where the image cannot be read."""
    turns: Sequence[tuple[str, str]]
    """(role, text) of each turn."""
    facts: Sequence[tuple[str, str]]
    tone: str
    """"best" or "worst"."""


@dataclass(frozen=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    caption: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Words:
    kind: ClassVar[str] = "words"
    text: str


Block = Table | Plots | Tiles | Gallery | Words


@dataclass(frozen=True)
class Fold:
    """Blocks that are closed until asked for."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    name: str
    """Anchor in the page."""
    title: str
    blocks: Sequence[Block | Fold]
    metrics: bool = True
    """False where nothing is measured, so that the profile need not stand beside it."""
    lead: str = field(default="")


def words(text: str, **looks: str | bool) -> Cell:
    """A cell of plain words."""
    return Cell(text, number=False, **looks)  # type: ignore[arg-type]


def percent(figure: Interval | None, key: str = "", digits: int = 1, signed: bool = False, **looks: str | bool) -> Cell:
    """A share in [0, 1] as per cent, with its interval where it has one."""
    return _figure(figure, 100.0, digits, key, signed, looks)


def number(figure: Interval | None, key: str = "", digits: int = 2, signed: bool = False, **looks: str | bool) -> Cell:
    """A figure in its own unit, with its interval where it has one."""
    return _figure(figure, 1.0, digits, key, signed, looks)


def count(value: int, key: str = "") -> Cell:
    """A whole number, thousands apart."""
    return Cell(f"{value:,}", key=key)


def interval(row: Mapping[str, Any]) -> Interval | None:
    """The figure in a result row's value, low, high, n (or items); None where the value is missing.

    Bounds that are missing become the value itself; such an interval is not shown.
    """
    value = row.get("value", row.get("difference"))
    if value is None:
        return None
    low, high = (row.get(side) for side in ("low", "high"))
    bounds = (value, value) if low is None or high is None else (low, high)
    n = row.get("n", row.get("items")) or 0
    return Interval(float(value), float(bounds[0]), float(bounds[1]), int(n))


def drawn(figure: Figure, alt: str, caption: str = "") -> Plot:
    """A matplotlib figure as a block; the image is part of the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        save(figure, path)
        return from_file(path, alt, caption)


def from_file(path: Path, alt: str, caption: str = "") -> Plot:
    """A PNG file as a block."""
    return Plot(data_uri(path.read_bytes(), "image/png"), alt, caption)


def data_uri(content: bytes, media_type: str) -> str:
    """``data:`` URI holding the content itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _figure(
    figure: Interval | None, scale: float, digits: int, key: str, signed: bool, looks: dict[str, str | bool]
) -> Cell:
    if figure is None:
        return Cell(UNKNOWN, key=key, number=False, **looks)  # type: ignore[arg-type]

    def spelled(value: float) -> str:
        text = f"{value * scale:{'+' if signed else ''}.{digits}f}"
        return text.replace("-", "−")

    bounds = f"{spelled(figure.low)} to {spelled(figure.high)}" if figure.low < figure.high else ""
    return Cell(spelled(figure.value), bounds, key=key, **looks)  # type: ignore[arg-type]
