"""Plots of the score model's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsqa_pipeline import plots
from rsqa_pipeline.score_model.evaluation.accuracy import AccuracyRow
from rsqa_pipeline.score_model.evaluation.calibration import Calibration, length_gap
from rsqa_pipeline.score_model.evaluation.mark_intervals import MarkIntervals
from rsqa_pipeline.score_model.evaluation.probes import ProbeResult
from rsqa_pipeline.score_model.length_correction import GradedText
from rsqa_pipeline.score_model.pairs import Pair

SELECTORS = ("score_model", "clip_score")
SIZE = (7.0, 4.6)
"""Inches. The report shows these plots in a grid, which has no gaps if they are of one size."""
MAX_SHOWN_PAIRS = 1_500
"""Maximum points in a scatter plot; more would only overlap."""


def accuracy_bars(rows: Sequence[AccuracyRow], path: Path) -> None:
    """Accuracy per family with intervals; by the truth where any pair has one, else by the judge."""
    label = "truth" if any(row.label == "truth" for row in rows) else "judge"
    shown = [row for row in rows if row.label == label]
    families = list(dict.fromkeys(row.family for row in shown))
    figure, axes = plots.new_figure(*SIZE)
    for offset, selector in zip((-0.2, 0.2), SELECTORS, strict=True):
        of_selector = [row for row in shown if row.selector == selector]
        at = [families.index(row.family) + offset for row in of_selector]
        values = [row.value for row in of_selector]
        axes.bar(at, values, width=0.38, color=plots.colour(selector), label=selector.replace("_", " "))
        plots.interval_bars(axes, at, values, [row.low for row in of_selector], [row.high for row in of_selector])
    axes.axhline(0.5, color=plots.colour("random"), linestyle="--", linewidth=1.4, label="chance")
    axes.set_xticks(range(len(families)), [family.replace("_", " ") for family in families])
    axes.set_ylim(0, 1)
    axes.set_title(f"Held-out pairs in the right order, by the {label}")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    plots.save(figure, path)


def reliability(measured: Calibration, path: Path) -> None:
    """Reliability diagram: the confidence of the score gap against how often it is right."""
    figure, axes = plots.new_figure(*SIZE)
    axes.plot([0.5, 1], [0.5, 1], color=plots.DROPPED, linestyle="--", label="perfect")
    confidences = [b.confidence for b in measured.bins]
    accuracies = [b.accuracy for b in measured.bins]
    axes.plot(confidences, accuracies, marker="o", color=plots.colour("score_model"), label="score model")
    axes.set_xlabel("P(higher score is chosen) = sigmoid(score gap)")
    axes.set_ylabel("share of pairs where it is")
    error = "" if measured.ece is None else f", expected error {measured.ece:.3f}"
    axes.set_title(f"Calibration{error}")
    axes.legend()
    plots.save(figure, path)


def mark_curves(found: Sequence[MarkIntervals], texts: Sequence[GradedText], folder: Path) -> None:
    """One panel per kind, ``mark_intervals.png``: the judge's mark over the score of held-out texts, with curve and
    interval. Nothing without intervals."""
    if not found:
        return
    figure, panels = plots.new_panels(len(found), *SIZE)
    for axes, one in zip(panels, found, strict=True):
        shown = [text for text in texts if text.kind == one.kind and text.mark is not None][:MAX_SHOWN_PAIRS]
        marks = [text.mark for text in shown if text.mark is not None]
        axes.scatter([text.score for text in shown], marks, s=7, alpha=0.35, color=plots.DROPPED, linewidths=0)
        bounds = [bound for score in one.curve.scores if (bound := one.interval(score)) is not None]
        axes.plot(one.curve.scores, one.curve.marks, color=plots.colour("score_model"), label="expected mark")
        lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
        label = f"{100 * one.level:.0f} % interval"
        axes.fill_between(
            one.curve.scores, lows, highs, alpha=0.18, color=plots.colour("score_model"), linewidth=0, label=label
        )
        axes.set_title(f"{one.kind}s\ncoverage {100 * one.coverage.mean:.1f} %, width {one.coverage.width:.2f}")
        axes.set_xlabel("score")
    panels[0].set_ylabel("judge's mark, 1 to 5")
    panels[0].legend()
    plots.save(figure, folder / "mark_intervals.png")


def probe_bars(probes: Sequence[ProbeResult], path: Path) -> None:
    """Share of corrupted captions whose score fell, one bar per probe."""
    figure, axes = plots.new_figure(7.4, 5.4)  # as the reward bench beside it
    at = list(range(len(probes)))
    values = [probe.value for probe in probes]
    axes.barh(at, values, color=[plots.colour("score_model") if probe.passed else plots.DROPPED for probe in probes])
    for position, probe in zip(at, probes, strict=True):
        axes.plot([probe.low, probe.high], [position, position], color=plots.INK, linewidth=1.4)
    axes.axvline(0.5, color=plots.colour("random"), linestyle="--", linewidth=1.4, label="chance")
    axes.set_yticks(at, [f"{probe.probe.replace('_', ' ')} ({probe.n})" for probe in probes])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("Spoiled captions whose score fell")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))
    plots.save(figure, path)


def gap_against_length(pairs: Sequence[Pair], gaps: Sequence[float | None], path: Path) -> None:
    """Score gap of each held-out pair against its gap in length."""
    known = [(length_gap(pair), gap) for pair, gap in zip(pairs, gaps, strict=True) if gap is not None]
    shown = known[:: max(1, len(known) // MAX_SHOWN_PAIRS)]
    figure, axes = plots.new_figure(*SIZE)
    axes.axhline(0, color=plots.DROPPED, linewidth=1.2)
    axes.scatter(
        [x for x, _ in shown],
        [y for _, y in shown],
        s=9,
        alpha=0.45,
        color=plots.colour("score_model"),
        linewidths=0,
    )
    axes.set_xlabel("characters: chosen minus rejected")
    axes.set_ylabel("score: chosen minus rejected")
    axes.set_title("Does length buy score?")
    plots.save(figure, path)
