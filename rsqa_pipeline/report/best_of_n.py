"""The report's section on the score model as a selector among N answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline import plots
from rsqa_pipeline.benchmarks.best_of_n_changes import by_curve, over_optimised_from, saturates_at
from rsqa_pipeline.benchmarks.selectors import SELECTORS
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.report.blocks import (
    Cell,
    Collapsible,
    Plot,
    Plots,
    ReportSection,
    Table,
    from_figure,
    interval,
    percent,
    text_cell,
)
from rsqa_pipeline.report.downstream import POOLED, comparison_table
from rsqa_pipeline.report.reading import name_of, rows
from rsqa_pipeline.statistics import Interval

Curve = Sequence[Mapping[str, Any]]
"""Rows of ``curve.parquet`` of one task."""
Changes = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(selector, task) -> its rows of ``changes.parquet``."""

NO_CELL = Cell("–")


def section(inputs: Mapping[str, Path], compared: Compared) -> ReportSection:
    """Each selector over N per task, its share of the oracle's gap and its flags; the score model against others."""
    folder = inputs["best_of_n_benchmark"]
    curve, changes = rows(folder / "curve.parquet"), by_curve(rows(folder / "changes.parquet"))
    tasks = sorted(dict.fromkeys(row["task"] for row in curve), key=lambda task: task != POOLED)
    curves = {task: [row for row in curve if row["task"] == task] for task in tasks}
    answering = " and ".join(compared.label(name) for name in dict.fromkeys(row["vlm"] for row in curve))
    details = [
        table
        for task in tasks
        for table in (
            *([] if task == tasks[0] else [summary_table(curves[task], task, changes)]),
            grade_table(curves[task], task),
            gap_table(curves[task], task),
        )
    ]
    return ReportSection(
        "best-of-n",
        "The score model as selector (best of N)",
        [
            Plots([curve_plot(curves[task], task, changes) for task in tasks]),
            *(summary_table(curves[task], task, changes) for task in tasks[:1]),
            comparison_table("best_of_n", "Selectors", compared, rows(folder / "comparisons.parquet")),
            Collapsible("Best of N: all results", details),
        ],
        lead=f"The VLM of {answering} gives N answers and a selector picks one. The oracle picks the best answer; no "
        "selector can do better. All tasks: those with right and wrong answers, so without captions. Vertical bars are "
        "95 % intervals, clustered by image.",
    )


def flag_text(changes: Sequence[Mapping[str, Any]]) -> str:
    """What more answers do to one selector on one task: where gains end, and where its own score misleads it."""
    known = [row for row in changes if row["saturated"] is not None]
    if not known:
        return "not known"
    saturated, misled = saturates_at(changes), over_optimised_from(changes)
    last = max(row["to_n"] for row in known)
    text = f"still changes at N = {last}" if saturated is None else f"saturated from N = {saturated}"
    return text if misled is None else f"{text}; over-optimised from N = {misled}"


def curve_plot(curve: Curve, task: str, changes: Changes) -> Plot:
    """One line per selector; x is N on a logarithmic axis."""
    figure, axes = plots.new_figure(5.2, 3.8)
    present = [selector for selector in SELECTORS if any(row["selector"] == selector for row in curve)]
    for position, selector in enumerate(present):
        line = [row for row in curve if row["selector"] == selector and row["value"] is not None]
        line.sort(key=lambda row: row["n"])
        found = [result for row in line if (result := interval(row)) is not None]
        # A small offset keeps intervals at the same N from overlapping.
        at = [row["n"] * 1.03 ** (position - len(present) / 2) for row in line]
        values = [100 * result.value for result in found]
        style, tint = {"oracle": ":", "random": "--"}.get(selector, "-"), plots.colour(selector)
        axes.plot(at, values, style, marker="o", markersize=4, color=tint, label=name_of(selector))
        lows, highs = [100 * result.low for result in found], [100 * result.high for result in found]
        plots.interval_bars(axes, at, values, lows, highs, tint)
        of_curve = changes.get((selector, task), [])
        places = {row["n"]: point for row, point in zip(line, zip(at, values, strict=True), strict=True)}
        for n, mark, size in ((saturates_at(of_curve), "o", 11), (over_optimised_from(of_curve), "x", 10)):
            if n in places:
                axes.plot(*places[n], mark, color=tint, markersize=size, markerfacecolor="none", markeredgewidth=1.6)
    counts = sorted({row["n"] for row in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set_title(f"Best of N: {name_of(task)}")
    axes.set_xlabel("answers to choose from, N")
    axes.set_ylabel(_grade_name(task))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return from_figure(
        figure,
        f"{_grade_name(task)} over N per selector, {name_of(task)}",
        "Ring: saturated from here on. Cross: over-optimised from here on.",
    )


def summary_table(curve: Curve, task: str, changes: Changes) -> Table:
    """Each selector at the largest N: grade, share of the oracle's gap, tokens that it reads, flags."""
    largest = max(row["n"] for row in curve)
    last = {row["selector"]: row for row in curve if row["n"] == largest}
    table = []
    for selector in (name for name in SELECTORS if name in last):
        row, key = last[selector], f"{selector}/{task}"
        flags = "–" if selector == "random" else flag_text(changes.get((selector, task), []))
        table.append(
            [
                _selector_cell(selector),
                percent(interval(row), key=f"best_of_n/at_largest/{key}"),
                _gap_cell(row, f"best_of_n/gap_at_largest/{key}"),
                Cell(f"{row['selector_tokens']:.1f}", key=f"best_of_n/selector_tokens/{key}"),
                Cell(flags, key=f"best_of_n/flags/{key}", number=False),
            ]
        )
    some = next(iter(last.values()))
    return Table(
        f"Best of N = {largest}, {name_of(task)}",
        ["selector", _grade_name(task), "share of the oracle's gap, %", "tokens read", "more answers"],
        table,
        note=f"{largest} answers to an item take {some['tokens']:.1f} generated tokens; picked answers are at most "
        f"{some['kl']:.2f} nats (KL) from the model that is sampled. Gap: from a random pick to the oracle. Tokens "
        "read: of the different answers to an item, by the selector's model; image and prompt do not count. Saturated: "
        "no doubling of N from here on changes the figure beyond its interval. Over-optimised: the picked "
        "answer's score is higher than with fewer answers, but the figure is below.",
    )


def grade_table(curve: Curve, task: str) -> Table:
    """The values of the plot, one row per selector, below what each N costs."""
    counts, found = _points(curve)
    some = {n: row for (_, n), row in found.items()}
    costs = [
        [
            text_cell(label),
            *(Cell(f"{some[n][column]:.{digits}f}", key=f"best_of_n/{column}/{task}/{n}") for n in counts),
        ]
        for label, column, digits in (("KL, nats", "kl", 2), ("generated tokens", "tokens", 1))
    ]
    return Table(
        f"Best of N, {name_of(task)}: {_grade_name(task)}",
        ["selector", *(f"N = {n}" for n in counts)],
        [*costs, *_by_selector(counts, found, lambda row, key: percent(interval(row), key=f"best_of_n/{key}"), task)],
    )


def gap_table(curve: Curve, task: str) -> Table:
    """Share of the way from a random pick to the oracle, one row per selector between the two."""
    counts, found = _points(curve)
    between = {key: row for key, row in found.items() if key[0] not in ("random", "oracle")}
    return Table(
        f"Best of N, {name_of(task)}: share of the gap from a random pick to the oracle, %",
        ["selector", *(f"N = {n}" for n in counts)],
        _by_selector(counts, between, lambda row, key: _gap_cell(row, f"best_of_n/gap/{key}"), task),
    )


def gap_interval(row: Mapping[str, Any]) -> Interval | None:
    """The share of the oracle's gap with its interval; None where there is no gap, as for N = 1."""
    if row["gap_share"] is None:
        return None
    return Interval(row["gap_share"], row["gap_low"], row["gap_high"], int(row["items"]))


def _points(curve: Curve) -> tuple[list[int], dict[tuple[str, int], Mapping[str, Any]]]:
    return sorted({row["n"] for row in curve}), {(row["selector"], row["n"]): row for row in curve}


def _by_selector(
    counts: Sequence[int],
    found: Mapping[tuple[str, int], Mapping[str, Any]],
    cell: Callable[[Mapping[str, Any], str], Cell],
    task: str,
) -> list[list[Cell]]:
    return [
        [
            _selector_cell(selector),
            *(
                cell(found[selector, n], f"{selector}/{task}/{n}") if (selector, n) in found else NO_CELL
                for n in counts
            ),
        ]
        for selector in SELECTORS
        if any((selector, n) in found for n in counts)
    ]


def _selector_cell(selector: str) -> Cell:
    return text_cell(name_of(selector), tint=plots.colour(selector))


def _gap_cell(row: Mapping[str, Any], key: str) -> Cell:
    return NO_CELL if row["gap_share"] is None else percent(gap_interval(row), key=key)


def _grade_name(task: str) -> str:
    """What the grades of a task are called, with the unit."""
    metrics = {found.name: found.metrics[0].name for found in load_tasks("vlm")}
    return "ROUGE-L, %" if metrics.get(task) == "rouge_l" else "accuracy, %"
