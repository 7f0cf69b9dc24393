"""The report's section on the score model as the reward of GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsqa_pipeline import plots
from rsqa_pipeline.report.blocks import (
    Plot,
    Plots,
    ReportSection,
    Table,
    from_figure,
    interval,
    number,
    text_cell,
)
from rsqa_pipeline.report.hacking_watch import watch_blocks
from rsqa_pipeline.report.reading import name_of, read_json

POLICIES = ("rl_policy", "rl_policy_rules_only")
PARTS = ("format", "accuracy")
MOMENTS = ("before", "after", "difference")
KINDS = {"open_ended": "open-ended questions", "close_ended": "short answers", "grounding": "boxes"}
"""What the rows of each kind of prompt are called."""


def reward_section(inputs: Mapping[str, Path]) -> ReportSection:
    """Reward over steps, and on held-out prompts before and after training."""
    return ReportSection(
        "reinforcement",
        "The score model as reward (GRPO)",
        [Plots(reward_curves(inputs)), reward_table(inputs), *watch_blocks(inputs, POLICIES)],
        lead="Both policies start from the VLM fine-tuned on the score model's subset. The reward has a format "
        "part and an accuracy part. The score model rates open-ended answers; with rules only, these get the format "
        "part alone.",
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


def _smooth(values: list[float], window: int = 9) -> list[float]:
    """Mean over up to ``window`` neighbouring steps, fewer at the ends."""
    half = window // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]
