"""Blocks that a report page is made of. Sections build blocks; the template renders each kind of block."""

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
"""Shown for a missing value. A missing value is never shown as 0."""


@dataclass(frozen=True)
class Cell:
    """One table cell: a value with its interval below it, or text."""

    text: str
    interval: str = ""
    note: str = ""
    """Short text after the value, such as a verdict or a chance level."""
    tint: str = ""
    """Colour of the dot before a subset's name; the same as in the plots."""
    key: str = ""
    """Name of the value, as ``data-key`` in the page: ``clip/base/classification/top1``."""
    number: bool = True
    strong: bool = False
    paper: bool = False
    """A value from the paper, styled differently from ours."""


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = ()
    """Headings that span columns: (text, number of columns)."""
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
    """Data URI; None if the image cannot be read."""
    turns: Sequence[tuple[str, str]]
    """(role, text) per turn."""
    facts: Sequence[tuple[str, str]]
    tone: str
    """"best" or "worst"."""


@dataclass(frozen=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    caption: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str
    verdict: bool = False
    """Whether this is the page's main statement, set larger."""


Block = Table | Plots | Tiles | Gallery | Paragraph


@dataclass(frozen=True)
class Collapsible:
    """Blocks that stay hidden until the reader opens them."""

    kind: ClassVar[str] = "collapsible"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class ReportSection:
    name: str
    """Anchor in the page."""
    title: str
    blocks: Sequence[Block | Collapsible]
    metrics: bool = True
    """False if nothing is measured, so that the profile's badge is not shown."""
    lead: str = field(default="")


def text_cell(text: str, **style: str | bool) -> Cell:
    """A cell of plain text."""
    return Cell(text, number=False, **style)  # type: ignore[arg-type]


def percent(
    estimate: Interval | None, key: str = "", digits: int = 1, signed: bool = False, **style: str | bool
) -> Cell:
    """A share in [0, 1] as a percentage, with its interval if it has one."""
    return _estimate_cell(estimate, 100.0, digits, key, signed, style)


def number(
    estimate: Interval | None, key: str = "", digits: int = 2, signed: bool = False, **style: str | bool
) -> Cell:
    """A value in its own unit, with its interval if it has one."""
    return _estimate_cell(estimate, 1.0, digits, key, signed, style)


def count(value: int, key: str = "") -> Cell:
    """A whole number with thousands separators."""
    return Cell(f"{value:,}", key=key)


def interval(row: Mapping[str, Any]) -> Interval | None:
    """The value, low, high and n (or items) of a result row; None if the value is missing.

    Missing bounds are set to the value; such an interval is not shown.
    """
    value = row.get("value", row.get("difference"))
    if value is None:
        return None
    low, high = (row.get(side) for side in ("low", "high"))
    bounds = (value, value) if low is None or high is None else (low, high)
    n = row.get("n", row.get("items")) or 0
    return Interval(float(value), float(bounds[0]), float(bounds[1]), int(n))


def from_figure(figure: Figure, alt: str, caption: str = "") -> Plot:
    """A matplotlib figure as a block; the image is embedded in the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        save(figure, path)
        return from_file(path, alt, caption)


def from_file(path: Path, alt: str, caption: str = "") -> Plot:
    """A PNG file as a block; the image is embedded in the page."""
    return Plot(data_uri(path.read_bytes(), "image/png"), alt, caption)


def data_uri(content: bytes, media_type: str) -> str:
    """``data:`` URI that contains the content."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _estimate_cell(
    estimate: Interval | None, scale: float, digits: int, key: str, signed: bool, style: dict[str, str | bool]
) -> Cell:
    if estimate is None:
        return Cell(UNKNOWN, key=key, number=False, **style)  # type: ignore[arg-type]

    def formatted(value: float) -> str:
        text = f"{value * scale:{'+' if signed else ''}.{digits}f}"
        return text.replace("-", "−")

    bounds = f"{formatted(estimate.low)} to {formatted(estimate.high)}" if estimate.low < estimate.high else ""
    return Cell(formatted(estimate.value), bounds, key=key, **style)  # type: ignore[arg-type]
