"""The report's sections on uses of the score model: as the reward of GRPO, and as a selector among N answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsqa_pipeline import plots
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
    number,
    percent,
    text_cell,
)
from rsqa_pipeline.report.downstream import POOLED, comparison_table
from rsqa_pipeline.report.reading import name_of, read_json, rows

POLICIES = ("rl_policy", "rl_policy_rules_only")
PARTS = ("format", "accuracy")
MOMENTS = ("before", "after", "difference")
KINDS = {"open_ended": "open-ended questions", "close_ended": "short answers", "grounding": "boxes"}
"""What the rows of each kind of prompt are called."""
SELECTORS = ("score_model", "clip_score", "majority_vote", "random", "oracle")


def reward_section(inputs: Mapping[str, Path]) -> ReportSection:
    """Reward over steps, and on held-out prompts before and after training."""
    return ReportSection(
        "reinforcement",
        "The score model as reward (GRPO)",
        [Plots(reward_curves(inputs)), reward_table(inputs)],
        lead="Both policies start from the VLM fine-tuned on the score model's subset. The reward has a format "
        "part and an accuracy part. The score model rates open-ended answers; with rules only, these get the format "
        "part alone.",
    )


def best_of_n_section(inputs: Mapping[str, Path], compared: Compared) -> ReportSection:
    """Accuracy of each selector over N per task, and the score model's difference from the others."""
    folder = inputs["best_of_n_benchmark"]
    curve = rows(folder / "curve.parquet")
    tasks = sorted(dict.fromkeys(row["task"] for row in curve), key=lambda task: task != POOLED)
    comparisons = comparison_table("best_of_n", "Selectors", compared, rows(folder / "comparisons.parquet"))
    return ReportSection(
        "best-of-n",
        "The score model as selector (best of N)",
        [
            Plots([best_of_n_plot(curve, task) for task in tasks]),
            comparisons,
            Collapsible("Best of N: all results", [best_of_n_table(curve, task) for task in tasks]),
        ],
        lead="The fine-tuned model gives N answers and a selector picks one. The oracle picks a right answer if there "
        "is one; no selector can do better. Vertical bars are 95 % intervals over the items.",
    )


def reward_curves(inputs: Mapping[str, Path]) -> list[Plot]:
    """Reward, KL from the starting model, and groups without a gradient, over optimizer steps."""
    drawings = []
    for column, title, label in (
        ("reward", "Reward in training", "mean reward"),
        ("kl", "Distance from the starting model", "KL"),
        ("equal_groups", "Groups of equal rewards, without gradient", "share of groups"),
    ):
        figure, axes = plots.new_figure(5.2, 3.4)
        for policy in POLICIES:
            history = [row for row in read_json(inputs[policy] / "history.json") if row.get(column) is not None]
            steps, values = [row["step"] for row in history], [row[column] for row in history]
            axes.plot(steps, values, color=plots.colour(policy), alpha=0.3, linewidth=1)
            axes.plot(steps, _smooth(values), color=plots.colour(policy), label=name_of(policy))
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        axes.legend()
        drawings.append(
            from_figure(figure, f"{title} of both policies over optimizer steps", "Thin: each step. Thick: smoothed.")
        )
    return drawings


def reward_table(inputs: Mapping[str, Path]) -> Table:
    """Held-out reward of each policy before and after training and the paired difference: total, parts, and the
    accuracy of each kind of prompt."""
    table = []
    for policy in POLICIES:
        rewards = read_json(inputs[policy] / "rewards.json")
        shown = [(part, part, rewards) for part in ("reward", *PARTS)]
        shown += [(f"accuracy, {KINDS[kind]}", "accuracy", of_kind) for kind, of_kind in rewards["kinds"].items()]
        for label, part, of_prompts in shown:
            row = [text_cell(name_of(policy), tint=plots.colour(policy)), text_cell(label)]
            for moment in MOMENTS:
                found = part_of(of_prompts, moment, part)
                key = f"rl/{policy}/{moment}/{label}"
                row.append(number(interval(found) if found else None, key, 3, signed=moment == "difference"))
            table.append(row)
    return Table(
        "Held-out prompts",
        ["policy", "part", *MOMENTS],
        table,
        note="Mean over held-out prompts, with answers sampled as in training. The difference is paired by prompt, and "
        "intervals are clustered by image. "
        "Both policies are measured by the full reward, including the score model's part.",
    )


def part_of(rewards: Mapping[str, Any], moment: str, part: str) -> Mapping[str, Any] | None:
    """Value of the total reward or of its part "format" or "accuracy"; None if it was not measured."""
    whole: Mapping[str, Any] | None = rewards.get(moment)
    return whole if part == "reward" or whole is None else whole.get(part)


def best_of_n_plot(curve: list[dict[str, Any]], task: str) -> Plot:
    """One line per selector; x is N on a logarithmic axis."""
    figure, axes = plots.new_figure(5.2, 3.8)
    present = [
        selector for selector in SELECTORS if any(r["selector"] == selector and r["task"] == task for r in curve)
    ]
    for position, selector in enumerate(present):
        line = [r for r in curve if (r["selector"], r["task"]) == (selector, task) and r["value"] is not None]
        line.sort(key=lambda row: row["n"])
        found = [result for row in line if (result := interval(row)) is not None]
        # A small offset keeps intervals at the same N from overlapping.
        at = [row["n"] * 1.03 ** (position - len(present) / 2) for row in line]
        values = [100 * result.value for result in found]
        style, tint = {"oracle": ":", "random": "--"}.get(selector, "-"), plots.colour(selector)
        axes.plot(at, values, style, marker="o", markersize=4, color=tint, label=name_of(selector))
        lows, highs = [100 * result.low for result in found], [100 * result.high for result in found]
        plots.interval_bars(axes, at, values, lows, highs, tint)
    counts = sorted({row["n"] for row in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set_title(f"Best of N: {name_of(task)}")
    axes.set_xlabel("answers to choose from, N")
    axes.set_ylabel("accuracy, %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return from_figure(figure, f"Accuracy over N per selector, {name_of(task)}")


def best_of_n_table(curve: list[dict[str, Any]], task: str) -> Table:
    """The values of the plot, one row per selector."""
    counts = sorted({row["n"] for row in curve if row["task"] == task})
    found = {(row["selector"], row["n"]): row for row in curve if row["task"] == task}
    table = [
        [
            text_cell(name_of(selector), tint=plots.colour(selector)),
            *(_accuracy_cell(found, selector, n, task) for n in counts),
        ]
        for selector in SELECTORS
        if any((selector, n) in found for n in counts)
    ]
    return Table(f"Best of N, {name_of(task)}: accuracy, %", ["selector", *(f"N = {n}" for n in counts)], table)


def _accuracy_cell(found: Mapping[tuple[str, int], dict[str, Any]], selector: str, n: int, task: str) -> Cell:
    row = found.get((selector, n))
    if row is None:
        return Cell("–")
    figure = {key: row[key] for key in ("value", "low", "high", "items")}
    return percent(interval(figure), key=f"best_of_n/{selector}/{task}/{n}")


def _smooth(values: list[float], window: int = 9) -> list[float]:
    """Mean over up to ``window`` neighbouring steps, fewer at the ends."""
    half = window // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]
