"""The result table at the end of `rsqa run`: every figure with its interval, read from the assets' own tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from rsqa_pipeline.materialize import metrics_file
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import ASSETS, SUBSETS


def print_results(profile: Profile, console: Console) -> None:
    """Prints what has been made so far: preference accuracy, subsets, downstream, best of N, rewards, quarantine."""
    title = f"profile {profile.name}: {profile.description}"
    table = Table("result", "value", "95 % interval", "n", title=title, title_justify="left")
    for row in (
        *_preference_rows(profile),
        *_subset_rows(profile),
        *_benchmark_rows(profile),
        *_policy_rows(profile),
    ):
        table.add_row(*row)
    if table.row_count:
        console.print(table)
    for line in quarantined(profile):
        console.print(line)
    page = ASSETS["curation_report"].folder(profile) / "index.html"
    if page.is_file():
        console.print(f"report: {page}", soft_wrap=True)


def quarantined(profile: Profile) -> list[str]:
    """A line for each asset that quarantined rows, with counts by reason."""
    lines = []
    for asset in ASSETS.values():
        path = asset.folder(profile) / "quarantine.parquet"
        if path.is_file():
            reasons = pd.read_parquet(path, columns=["reason"])["reason"].value_counts()
            total = _metrics(profile, asset.name).get("input_rows", 0)
            if len(reasons):
                parts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                lines.append(f"{asset.name}: {reasons.sum()} of {total:.0f} rows quarantined ({parts})")
    return lines or ["no rows quarantined"]


def _preference_rows(profile: Profile) -> list[tuple[str, ...]]:
    path = ASSETS["score_model_report"].folder(profile) / "accuracy.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [
        _row(f"held-out preference accuracy, {r['selector']}, {r['label']} label", r)
        for r in rows
        if r["family"] == "all"
    ]


def _subset_rows(profile: Profile) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for subset in SUBSETS:
        metrics = _metrics(profile, f"subset_{subset}")
        for kind in ("caption", "instruction"):
            if f"{kind}_true_quality" in metrics:
                value = f"{metrics[f'{kind}_true_quality']:.3f}"
                interval = f"{metrics[f'{kind}_true_quality_low']:.3f} .. {metrics[f'{kind}_true_quality_high']:.3f}"
                count = f"{metrics[f'{kind}_true_quality_n']:.0f}"
                rows.append((f"true quality (1..5) of {kind}s in {subset}", value, interval, count))
    return rows


def _benchmark_rows(profile: Profile) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in ("clip_benchmark", "vlm_benchmark"):
        path = ASSETS[name].folder(profile) / "results.parquet"
        if path.is_file():
            records = pd.read_parquet(path).to_dict("records")
            rows += [_row(f"{name.split('_')[0]} {r['task']} {r['metric']}, {r['model']}", r) for r in records]
    path = ASSETS["best_of_n_benchmark"].folder(profile) / "curve.parquet"
    if path.is_file():
        curve = pd.read_parquet(path)
        largest = curve[(curve["n"] == curve["n"].max()) & (curve["task"] == "all")]
        rows += [_row(f"best of {r['n']}, {r['selector']}", {**r, "n": r["items"]}) for r in largest.to_dict("records")]
    return rows


def _policy_rows(profile: Profile) -> list[tuple[str, ...]]:
    rows = []
    for name in ("rl_policy", "rl_policy_rules_only"):
        path = ASSETS[name].folder(profile) / "rewards.json"
        if path.is_file():
            rewards = json.loads(path.read_text(encoding="utf-8"))
            rows += [
                _row(f"{name}: held-out reward {when}", rewards[when]) for when in ("before", "after", "difference")
            ]
    return rows


def _row(label: str, found: Mapping[Any, Any]) -> tuple[str, ...]:
    return label, f"{found['value']:.3f}", f"{found['low']:.3f} .. {found['high']:.3f}", f"{found['n']:.0f}"


def _metrics(profile: Profile, asset: str) -> dict[str, float]:
    path: Path = metrics_file(profile, ASSETS[asset])
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
