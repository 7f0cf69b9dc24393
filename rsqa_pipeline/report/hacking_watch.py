"""The report's blocks on the watch for reward hacking, for policies that were watched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline import plots
from rsqa_pipeline.report.blocks import Block, Cell, Paragraph, Plots, Table, count, from_figure, number, text_cell
from rsqa_pipeline.report.reading import name_of, read_json
from rsqa_pipeline.statistics import Interval


def watch_blocks(inputs: Mapping[str, Path], policies: tuple[str, ...]) -> list[Block]:
    """Proxy and gold over steps, and each monitor's largest value and first alarm; empty without a watch."""
    found = {name: inputs[name] / "watch.json" for name in policies}
    watched = {name: read_json(file) for name, file in found.items() if file.is_file()}
    if not watched:
        return []
    stops = [Paragraph(_stop(name, watch)) for name, watch in watched.items() if watch["stopped_at"] is not None]
    return [*stops, _curves(watched), _monitors(watched)]


def _stop(name: str, watch: Mapping[str, Any]) -> str:
    reasons = [alarm["monitor"] for alarm in watch["alarms"] if alarm["step"] == watch["stopped_at"]]
    return (
        f"{name_of(name)}: the watch stopped training at step {watch['stopped_at']} ({', '.join(reasons)}). "
        f"The policy is that of step {watch['kept_step']}, the last checkpoint before the alarm."
    )


def _curves(watched: Mapping[str, Any]) -> Plots:
    drawings = []
    for column, title in (("proxy", "Proxy: the reward that is optimised"), ("gold", "Gold: what it stands for")):
        figure, axes = plots.new_figure(5.2, 3.4)
        for name, watch in watched.items():
            points = [(check["step"], check[column]) for check in watch["checks"] if check[column] is not None]
            axes.plot(
                [step for step, _ in points],
                [value for _, value in points],
                color=plots.colour(name),
                label=name_of(name),
            )
            if watch["stopped_at"] is not None:
                axes.axvline(watch["stopped_at"], color=plots.colour(name), linestyle=":")
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("mean of the probes")
        axes.legend()
        drawings.append(from_figure(figure, f"{title}, over optimizer steps", "Dotted: stopped by an alarm."))
    return Plots(drawings)


def _monitors(watched: Mapping[str, Any]) -> Table:
    rows = []
    for name, watch in watched.items():
        for monitor, threshold in watch["thresholds"].items():
            values = [check["readings"][monitor] for check in watch["checks"]]
            known = [value for value in values if value is not None]
            alarms = [alarm for alarm in watch["alarms"] if alarm["monitor"] == monitor]
            key = f"watch/{name}/{monitor}"
            rows.append(
                [
                    text_cell(name_of(name), tint=plots.colour(name)),
                    text_cell(monitor),
                    _plain(max(known) if known else None, f"{key}/largest"),
                    _plain(threshold, f"{key}/threshold"),
                    count(len(alarms), f"{key}/alarms"),
                    count(alarms[0]["step"], f"{key}/first") if alarms else text_cell("none"),
                ]
            )
    return Table(
        "Watch on reward hacking",
        ["policy", "monitor", "largest value", "threshold", "alarms", "first alarm at step"],
        rows,
        note="Each monitor rises as the policy does what the reward did not mean; an alarm is a value above the "
        "threshold at a check. A monitor without a value had too little to go on.",
    )


def _plain(value: float | None, key: str) -> Cell:
    return number(Interval(value, value, value, 1) if value is not None else None, key, 3)
