"""The report's section on curation: scores of kept samples, quality of the subsets, kept share of each source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rsqa_pipeline import plots
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.report.blocks import (
    Plot,
    Plots,
    ReportSection,
    Table,
    count,
    from_figure,
    number,
    percent,
    text_cell,
)
from rsqa_pipeline.report.fraction_and_drift import curve_blocks, drift_blocks
from rsqa_pipeline.report.reading import KINDS, name_of, read_json
from rsqa_pipeline.statistics import Interval, bootstrap_mean, wilson

RESAMPLES = 1000
PLURAL = {"caption": "captions", "instruction": "instructions"}
SELECTORS = ("score_model", "clip_score")
"""Score columns."""


def true_quality(frame: pd.DataFrame, subset: str, kind: str, seed: int) -> Interval | None:
    """Mean true quality (1..5) of the samples of ``kind`` that ``subset`` keeps; None if it is not known."""
    return mean_true_quality(frame[frame[subset] & (frame["kind"] == kind)], seed)


def mean_true_quality(rows: pd.DataFrame, seed: int) -> Interval | None:
    """Mean of the known ``true_quality`` (1..5) of ``rows``; None if none is known.

    The rows are drawn in the order of their ``sample_id``, so that the same rows always get the same interval.
    """
    known = rows.sort_values("sample_id")["true_quality"].dropna()
    return bootstrap_mean(known.to_numpy(dtype=float), RESAMPLES, seed) if len(known) else None


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, compared: Compared, seed: int) -> ReportSection:
    """Histograms, quality curves, subset table, kept share by source, curation curve and drift."""
    histograms = [
        plot
        for selector in SELECTORS
        for kind in KINDS
        if (subset := compared.chosen_by(selector)) is not None
        and (plot := histogram(frame, selector, subset, kind, compared.colour(subset))) is not None
    ]
    curves = [plot for kind in KINDS if (plot := quality_curve(frame, kind)) is not None]
    shares = [source_plot(frame, compared, kind) for kind in KINDS if (frame["kind"] == kind).any()]
    return ReportSection(
        "curation",
        "What each subset keeps",
        [
            Plots(histograms),
            subset_table(inputs, frame, compared, seed),
            Plots(curves),
            Plots(shares),
            *(source_table(frame, compared, kind, seed) for kind in KINDS if (frame["kind"] == kind).any()),
            *curve_blocks(inputs),
            *drift_blocks(inputs),
        ],
        lead="Every corpus sample is scored and ranked. The top part by score model is compared with the top part by "
        "CLIP score, with a random part of the same size, and with all data.",
    )


def histogram(frame: pd.DataFrame, selector: str, subset: str, kind: str, tint: str) -> Plot | None:
    """Scores of kept and dropped samples with the threshold between them; None if nothing is scored."""
    rows = frame[(frame["kind"] == kind) & frame[selector].notna()]
    if rows.empty:
        return None
    kept = rows[subset].to_numpy(dtype=bool)
    scores = rows[selector].to_numpy(dtype=float)
    edges = np.histogram_bin_edges(scores, bins=40).tolist()
    figure, axes = plots.new_figure(5.2, 3.4)
    axes.hist(
        [scores[~kept], scores[kept]],
        bins=edges,
        stacked=True,
        color=[plots.DROPPED, tint],
        label=[f"dropped, {int((~kept).sum()):,}", f"kept, {int(kept.sum()):,}"],
    )
    if kept.any() and not kept.all():
        threshold = float(scores[kept].min())
        axes.axvline(threshold, color=plots.INK, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3g}")
    axes.set_title(f"{name_of(selector)[0].upper()}{name_of(selector)[1:]}, {PLURAL[kind]}")
    axes.set_xlabel("score" if selector == "score_model" else "cosine of image and text")
    axes.set_ylabel("samples")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return from_figure(
        figure,
        f"Histogram of the {name_of(selector)} over {PLURAL[kind]}, kept and dropped samples in different colours",
    )


def quality_curve(frame: pd.DataFrame, kind: str) -> Plot | None:
    """Mean true quality of the top x % by each selector; None if no true quality is known."""
    rows = frame[(frame["kind"] == kind) & frame["true_quality"].notna()]
    if len(rows) < 2:
        return None
    quality = rows["true_quality"].to_numpy(dtype=float)
    figure, axes = plots.new_figure(5.2, 3.4)
    for selector, label in (("oracle", "true quality"), ("score_model", None), ("clip_score", None)):
        keys = quality if selector == "oracle" else rows[selector].to_numpy(dtype=float)
        order = np.argsort(-keys, kind="stable")[: int(np.isfinite(keys).sum())]
        means = np.cumsum(quality[order]) / np.arange(1, len(order) + 1)
        start = max(1, len(order) // 50)
        share = np.arange(start, len(order) + 1) * 100 / len(quality)
        style = ":" if selector == "oracle" else "-"
        axes.plot(share, means[start - 1 :], style, color=plots.colour(selector), label=label or name_of(selector))
    axes.axhline(quality.mean(), color=plots.colour("random"), linestyle="--", label="random (mean of all data)")
    axes.set_title(f"Quality of the top {PLURAL[kind]}")
    axes.set_xlabel("share kept, %")
    axes.set_ylabel("mean true quality, 1 to 5")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return from_figure(figure, f"Mean true quality of the kept {PLURAL[kind]} over the share kept, per selector")


def subset_table(inputs: Mapping[str, Path], frame: pd.DataFrame, compared: Compared, seed: int) -> Table:
    """Selector, rows kept and mean true quality of each subset."""
    faults = fault_shares(inputs, frame, compared)
    recorded = any(share is not None for share in faults.values())
    rows = []
    for subset in compared.subsets:
        rule = read_json(inputs[f"subset_{subset}"] / "rule.json")
        row = [
            text_cell(compared.label(subset), tint=compared.colour(subset)),
            text_cell(name_of(rule["selector"] or "several rules")),
        ]
        for kind in KINDS:
            kept = int((frame[subset] & (frame["kind"] == kind)).sum())
            row += [
                count(kept, key=f"subset/{subset}/{kind}/kept"),
                number(true_quality(frame, subset, kind, seed), key=f"subset/{subset}/{kind}/true_quality"),
            ]
        if recorded:
            row.append(percent(faults[subset], f"subset/{subset}/faulty"))
        rows.append(row)
    groups: list[tuple[str, int]] = [("", 2), ("captions", 2), ("instructions", 2)]
    header = ["subset", "selector", "kept", "true quality, 1 to 5", "kept", "true quality, 1 to 5"]
    if recorded:
        groups.append(("captions", 1))
        header.append("with a recorded fault, %")
    return Table(
        "Subsets",
        header,
        rows,
        groups,
        "Mean true quality with its 95 % bootstrap interval over samples. Selection does not use it."
        + (" It follows from the kind of fault inserted; 5 means no fault." if recorded else ""),
    )


def fault_shares(inputs: Mapping[str, Path], frame: pd.DataFrame, compared: Compared) -> dict[str, Interval | None]:
    """Subset -> share of its captions with a recorded fault; None if the source records no faults."""
    truth = pq.read_table(inputs["image_text_pairs"] / "truth.parquet", columns=["sample_id", "corruption"]).to_pandas()
    faulty = set(truth[truth["corruption"].notna()]["sample_id"])
    if not faulty:
        return dict.fromkeys(compared.subsets)
    captions = frame[frame["kind"] == "caption"]
    return {subset: _share(captions[captions[subset]]["sample_id"].isin(faulty)) for subset in compared.subsets}


def _by_source(frame: pd.DataFrame, kind: str) -> list[tuple[str, pd.DataFrame]]:
    """Samples of each source, the source with the highest true quality first (by name if it is not known)."""
    groups = [(str(source), rows) for source, rows in frame[frame["kind"] == kind].groupby("source")]
    known = {source: rows["true_quality"].mean() for source, rows in groups}
    return sorted(groups, key=lambda group: (-known[group[0]] if known[group[0]] == known[group[0]] else 0.0, group[0]))


def source_plot(frame: pd.DataFrame, compared: Compared, kind: str) -> Plot:
    """Share of each source's samples that each subset keeps, with Wilson intervals."""
    groups = _by_source(frame, kind)
    most = frame.groupby("kind")["source"].nunique().max()  # both kinds are shown side by side, of one height
    figure, axes = plots.new_figure(5.2, 1.5 + 0.62 * most)
    places = np.arange(len(groups), dtype=float)
    step = 0.78 / max(1, len(compared.selected))
    for offset, subset in enumerate(compared.selected):
        kept = [wilson(int(rows[subset].sum()), len(rows)) for _, rows in groups]
        values = [100 * share.value for share in kept]
        errors = [
            [100 * (share.value - share.low) for share in kept],
            [100 * (share.high - share.value) for share in kept],
        ]
        axes.barh(
            places + (offset - (len(compared.selected) - 1) / 2) * step,
            values,
            height=0.92 * step,
            xerr=errors,
            color=compared.colour(subset),
            error_kw={"ecolor": plots.INK, "elinewidth": 1, "capsize": 2},
            label=compared.label(subset),
        )
    axes.set_yticks(places, [source.replace("_", " ") for source, _ in groups])
    axes.invert_yaxis()
    axes.set_title(f"Kept share of each source, {PLURAL[kind]}")
    axes.set_xlabel("kept, %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return from_figure(figure, f"Share of the {PLURAL[kind]} of each source that each subset keeps")


def source_table(frame: pd.DataFrame, compared: Compared, kind: str, seed: int) -> Table:
    """The values of the plot, with the true quality of each source; the main subset first, as a phone shows it."""
    subsets = sorted(compared.selected, key=lambda subset: subset != compared.main)
    rows = []
    for source, part in _by_source(frame, kind):
        quality = mean_true_quality(part, seed)
        rows.append(
            [
                text_cell(source.replace("_", " ")),
                *(percent(_share(part[subset]), f"source/{kind}/{source}/{subset}") for subset in subsets),
                count(len(part), key=f"source/{kind}/{source}/samples"),
                number(quality, key=f"source/{kind}/{source}/true_quality"),
            ]
        )
    header = [
        "source",
        *(f"{compared.label(subset)}: kept, %" for subset in subsets),
        "samples",
        "true quality, 1 to 5",
    ]
    return Table(f"Sources of the {PLURAL[kind]}", header, rows)


def _share(flags: pd.Series) -> Interval | None:
    return wilson(int(flags.sum()), len(flags)) if len(flags) else None
