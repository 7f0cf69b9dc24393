"""Plots of scores and of what a selection keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rsqa_pipeline.plots import DROPPED, colour, new_panels, save

QUALITY_BANDS = ((1.0, 2.5, "#b5534a"), (2.5, 3.5, "#d9a441"), (3.5, 4.5, "#7fae6b"), (4.5, 5.01, "#2f6f4f"))
"""Ranges of the true quality (1..5) and their colours."""

_SOURCE_COLOURS = ("#2f7fb8", "#d1495b", "#c9a227", "#2a9d6f", "#7d5ba6", "#8ccfb0", "#3a3a3a", "#b4bac4")
_TITLES = {"caption": "captions", "instruction": "instructions"}


def plot_scores(scored: pd.DataFrame, score_name: str, path: Path) -> None:
    """Histograms of ``scored`` (columns kind, source, score, true_quality): by source and by true quality."""
    kinds = [kind for kind in _TITLES if (scored["kind"] == kind).any()]
    panels = [(kind, by) for kind in kinds for by in ("source", "true quality") if _can_draw(scored, kind, by)]
    figure, axes = new_panels(max(1, len(panels)), width=max(6.0, 5.2 * len(panels)), height=4.2)
    for axis, (kind, by) in zip(axes, panels, strict=False):
        of_kind = scored[scored["kind"] == kind]
        _stack(axis, of_kind, _by_source(of_kind) if by == "source" else _by_quality(of_kind))
        axis.set_title(f"{_TITLES[kind].capitalize()} by {by}")
        axis.set_xlabel(score_name)
        axis.set_ylabel("samples")
    save(figure, path)


def plot_kept_by_source(samples: pd.DataFrame, selector: str, path: Path) -> None:
    """Bars of kept and dropped samples per source; ``samples`` has columns kind, source, kept (bool)."""
    kinds = [kind for kind in _TITLES if (samples["kind"] == kind).any()]
    max_sources = max(samples[samples["kind"] == kind]["source"].nunique() for kind in kinds)
    figure, axes = new_panels(len(kinds), width=5.5 * len(kinds), height=1.6 + 0.38 * max_sources)
    for axis, kind in zip(axes, kinds, strict=True):
        counts = (
            samples[samples["kind"] == kind].groupby("source")["kept"].agg(["sum", "size"]).sort_index(ascending=False)
        )
        kept, total = counts["sum"].to_numpy(), counts["size"].to_numpy()
        axis.barh(counts.index.tolist(), kept, color=colour(selector), label="kept")
        axis.barh(counts.index.tolist(), total - kept, left=kept, color=DROPPED, label="dropped")
        for row, (keep, of) in enumerate(zip(kept, total, strict=True)):
            axis.text(of, row, f" {keep / of:.0%}", va="center", fontsize=9)
        axis.set_title(f"{_TITLES[kind].capitalize()} kept by source")
        axis.set_xlabel("samples")
        axis.set_xlim(0, 1.12 * total.max())
    axes[-1].legend(loc="lower right")
    save(figure, path)


def _can_draw(scored: pd.DataFrame, kind: str, by: str) -> bool:
    return by == "source" or bool(scored.loc[scored["kind"] == kind, "true_quality"].notna().any())


def _by_source(rows: pd.DataFrame) -> list[tuple[str, str, pd.Series]]:
    """(label, colour, row mask) of the most frequent sources; sources beyond the number of colours are grouped."""
    counts = rows["source"].value_counts()
    names = sorted(counts.index, key=lambda name: (-counts[name], name))
    alone = names if len(names) <= len(_SOURCE_COLOURS) else names[: len(_SOURCE_COLOURS) - 1]
    parts = [(str(n), tint, rows["source"] == n) for n, tint in zip(alone, _SOURCE_COLOURS, strict=False)]
    if len(alone) < len(names):
        parts.append((f"{len(names) - len(alone)} others", _SOURCE_COLOURS[-1], ~rows["source"].isin(alone)))
    return parts


def _by_quality(rows: pd.DataFrame) -> list[tuple[str, str, pd.Series]]:
    return [
        (f"{low:g} to {min(high, 5):g}", tint, (rows["true_quality"] >= low) & (rows["true_quality"] < high))
        for low, high, tint in QUALITY_BANDS
    ]


def _stack(axis: Axes, rows: pd.DataFrame, parts: list[tuple[str, str, pd.Series]]) -> None:
    edges = np.histogram_bin_edges(rows["score"].to_numpy(dtype=float), bins=40)
    values = [rows.loc[which, "score"].to_numpy(dtype=float) for _, _, which in parts]
    axis.hist(
        values,
        bins=edges.tolist(),
        stacked=True,
        color=[tint for _, tint, _ in parts],
        label=[name for name, _, _ in parts],
    )
    axis.legend(fontsize=8)
