"""The Markdown page of a retraining, for a pull request: what changed and why, gate, benchmarks, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rsqa_pipeline.materialization.staleness import StaleAsset
from rsqa_pipeline.retraining.benchmark_changes import BenchmarkChange
from rsqa_pipeline.retraining.gate import Gate
from rsqa_pipeline.statistics import Interval

MAX_METRICS = 150
"""Changed metrics that the page lists; the files hold all of them."""


@dataclass(frozen=True)
class MetricChange:
    asset: str
    metric: str
    before: float | None
    now: float | None


@dataclass
class Retraining:
    """What a retraining did. A part is empty or None if it was not reached."""

    profile: str
    commit: str
    """That it is compared with."""
    stale: Sequence[StaleAsset]
    total: int
    """Assets of the profile."""
    dry_run: bool = False
    computed: Sequence[str] = ()
    failure: str | None = None
    gate: Gate | None = None
    benchmarks: Sequence[BenchmarkChange] = ()
    metrics: Sequence[MetricChange] = ()
    warnings: Sequence[str] = ()
    """Checks that found something but do not block."""
    notes: list[str] = field(default_factory=list)


def summary_of(retraining: Retraining) -> str:
    """The page as GitHub-flavoured Markdown; texts from data are shown as text."""
    blocks = [
        f"# Retraining of profile {_cell(retraining.profile)}",
        f"**{_headline(retraining)}**",
        f"Compared with commit `{retraining.commit[:12]}`.",
        *_changes(retraining),
        *_gate(retraining.gate),
        *_benchmarks(retraining.benchmarks),
        *_metrics(retraining.metrics),
        *_listed("Warnings", retraining.warnings),
        *_listed("Notes", retraining.notes),
    ]
    return "\n\n".join(blocks) + "\n"


def _headline(retraining: Retraining) -> str:
    if retraining.failure is not None:
        return "FAILED: an asset could not be made."
    if not retraining.stale and (retraining.gate is None or retraining.gate.verdict == "unchanged"):
        return f"Nothing to retrain: all {retraining.total} assets are current."
    if retraining.dry_run:
        return f"Dry run: {len(retraining.stale)} of {retraining.total} assets would be made."
    made = f"{len(retraining.computed)} of {retraining.total} assets made"
    verdict = retraining.gate.verdict if retraining.gate is not None else "unchanged"
    words = {"unchanged": "the score model is unchanged", "passed": "the new score model passed the gate"}
    return f"{made}; {words.get(verdict, 'the gate refused the new score model')}."


def _changes(retraining: Retraining) -> list[str]:
    if not retraining.stale:
        return []
    rows = []
    for asset in retraining.stale:
        state = "made" if asset.name in retraining.computed else "unchanged output" if retraining.computed else "stale"
        last = "never timed" if asset.last_seconds is None else f"{asset.last_seconds:.0f} s"
        rows.append([asset.name, "; ".join(asset.reasons), state, last])
    failure = [f"```text\n{retraining.failure.replace('```', '` ` `')}\n```"] if retraining.failure else []
    return ["## What changed", *failure, _table(["asset", "why", "now", "last time"], rows)]


def _gate(gate: Gate | None) -> list[str]:
    if gate is None:
        return []
    blocks = [f"## Score model: {gate.verdict}", "\n".join(f"- {_cell(reason)}" for reason in gate.reasons)]
    if gate.difference is not None:
        rows = [["all held-out pairs", *_interval(gate.difference)]]
        rows += [[f"family {name}", *_interval(interval)] for name, interval in gate.families.items()]
        blocks.append(_table(["accuracy, new − old", "difference", "95 % interval", "pairs"], rows))
        blocks.append("Passed if the first interval lies above 0, none below 0, and every probe passes.")
    return blocks


def _benchmarks(changes: Sequence[BenchmarkChange]) -> list[str]:
    blocks: list[str] = []
    for family in dict.fromkeys(change.family for change in changes):
        of_family = [change for change in changes if change.family == family]
        rows = [
            [f"{c.task} ({c.metric})", f"{c.before:.3f}", f"{c.now:.3f}", *_interval(c.difference)] for c in of_family
        ]
        blocks += [
            f"## {family.upper()} tuned on the main subset",
            _table(["task", "base commit", "now", "difference", "95 % interval", "items"], rows),
            _chart(of_family),
        ]
    return blocks


def _chart(changes: Sequence[BenchmarkChange]) -> str:
    """A Mermaid chart, which GitHub draws: bars are now, the line is the base commit."""
    tasks = ", ".join(f'"{re.sub(r"[^A-Za-z0-9 ]", " ", change.task)}"' for change in changes)
    now, before = (", ".join(f"{value:.3f}" for value in values) for values in _both(changes))
    return (
        "```mermaid\nxychart-beta\n"
        f'  title "bars: now, line: base commit"\n  x-axis [{tasks}]\n  y-axis "main metric" 0 --> 1\n'
        f"  bar [{now}]\n  line [{before}]\n```"
    )


def _both(changes: Iterable[BenchmarkChange]) -> tuple[list[float], list[float]]:
    pairs = [(change.now, change.before) for change in changes]
    return [now for now, _ in pairs], [before for _, before in pairs]


def _metrics(changes: Sequence[MetricChange]) -> list[str]:
    if not changes:
        return []
    rows = [[c.asset, c.metric, _number(c.before), _number(c.now)] for c in changes[:MAX_METRICS]]
    left = len(changes) - len(rows)
    more = f"\n\n{left} more are in the files below `metrics/`." if left else ""
    table = _table(["asset", "metric", "base commit", "now"], rows)
    return [f"<details><summary>{len(changes)} metrics changed</summary>\n\n{table}{more}\n\n</details>"]


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {_cell(line)}" for line in lines)] if lines else []


def _interval(interval: Interval) -> list[str]:
    return [f"{interval.value:+.4f}", f"[{interval.low:+.4f}, {interval.high:+.4f}]", str(interval.n)]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head, *body = [" | ".join(map(_cell, line)) for line in (headers, *rows)]
    return "\n".join(f"| {line} |" for line in (head, " | ".join(["---"] * len(headers)), *body))


def _cell(text: str) -> str:
    """Text on one line, without meaning as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def metric_changes(
    before: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]
) -> list[MetricChange]:
    """Metrics by asset that differ, appeared or are gone."""
    found = []
    for asset in dict.fromkeys([*now, *before]):
        old, new = before.get(asset, {}), now.get(asset, {})
        found += [
            MetricChange(asset, name, old.get(name), new.get(name))
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name)
        ]
    return found
