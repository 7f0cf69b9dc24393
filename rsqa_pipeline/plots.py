"""One style for all plots: a colour means the same thing everywhere, and PNG bytes depend only on the data.

Plots are drawn dark on white. On a dark page, the report inverts their lightness and keeps the hues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

COLOURS: dict[str, str] = {
    "base": "#8a8f98",
    "all": "#4c566a",
    "random": "#c9a227",
    "clip_score": "#2f7fb8",
    "score_model": "#d1495b",
    "mean_log_probability": "#d9822b",
    "majority_vote": "#7d5ba6",
    "oracle": "#3a3a3a",
    "clean": "#9c6b4a",
    "rl_policy": "#2a9d6f",
    "rl_policy_rules_only": "#8ccfb0",
}
"""Colour of each subset, selector and model; a subset has the colour of the selector that chose it."""

KEPT, DROPPED = "#d1495b", "#c3c9d2"
"""Colours of kept and dropped samples, independent of the selector."""

INK = "#20242b"
"""Colour of labels, intervals and thresholds."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.edgecolor": "#5b6472",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#3b424d",
    "ytick.color": "#3b424d",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 144,
    "savefig.dpi": 144,
}


def colour(name: str) -> str:
    """Colour of a subset, selector or model; a mid grey for a name that has none."""
    return COLOURS.get(name, "#6b7280")


def subset_colours(selectors: Mapping[str, str | None]) -> dict[str, str]:
    """Colour per subset: that of the selector that chose it; further subsets of one selector get lighter shades.

    Args:
        selectors: subset -> its selector, None for a rule that combines several.
    """
    colours = {}
    for name, selector in selectors.items():
        alike = [other for other, by in selectors.items() if by == selector]
        base = to_rgb(colour(selector or "combined"))
        lighter = 0.6 * alike.index(name) / max(1, len(alike))
        red, green, blue = (part + (1 - part) * lighter for part in base)
        colours[name] = to_hex((red, green, blue))
    return colours


def new_figure(width: float = 7.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure of ``width`` x ``height`` inches with one axes."""
    figure, panels = new_panels(1, width, height)
    return figure, panels[0]


def new_panels(columns: int, width: float = 10.0, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches with ``columns`` axes side by side.

    It is drawn with Agg on any display; pyplot keeps no reference to it.
    """
    matplotlib.rcParams.update(_STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, columns, squeeze=False)
    return figure, list(grid[0])


def interval_bars(
    axes: Axes,
    at: Sequence[float],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    tint: str = INK,
) -> None:
    """Draws the intervals ``lows``..``highs`` as thin vertical bars around ``values`` at x = ``at``."""
    below = [max(0.0, value - low) for value, low in zip(values, lows, strict=True)]
    above = [max(0.0, high - value) for value, high in zip(values, highs, strict=True)]
    axes.errorbar(at, values, yerr=[below, above], fmt="none", ecolor=tint, elinewidth=1.4, capsize=3)


def save(figure: Figure, path: Path) -> None:
    """Writes ``figure`` as PNG, 144 dots per inch, without date or version; creates missing folders.

    The same figure gives the same bytes on the same machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
