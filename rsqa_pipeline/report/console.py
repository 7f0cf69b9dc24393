"""The result tables printed at the end of `rsqa run`: the figures of the report, with the same intervals.

Names and labels come from the user's data and profile; they are printed as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsqa_pipeline.benchmarks.best_of_n_changes import by_curve
from rsqa_pipeline.compared import Compared
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.report.best_of_n import flag_text, gap_interval
from rsqa_pipeline.report.blocks import UNKNOWN, interval
from rsqa_pipeline.report.curation import mean_true_quality
from rsqa_pipeline.report.downstream import POOLED
from rsqa_pipeline.report.reading import read_json, rows
from rsqa_pipeline.source_pairs.source_notes import read_notes
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.statistics import Interval

DOWNSTREAM = (
    ("clip_benchmark", "classification", "top_1", "CLIP zero-shot top-1"),
    ("clip_benchmark", "retrieval", "image_to_text_r1", "CLIP image-text R@1"),
    ("clip_benchmark", "retrieval", "text_to_image_r1", "CLIP text-image R@1"),
    ("vlm_benchmark", "all_tasks", "accuracy", "VLM answers"),
    ("vlm_benchmark", "caption", "rouge_l", "VLM caption ROUGE-L"),
)


def print_results(profile: Profile, console: Console) -> None:
    """Prints the results so far: preference accuracy, subsets, downstream, best of N, rewards, quarantine.

    95 % intervals are in brackets.
    """
    console.print(f"profile {profile.name}: {profile.description}; 95 % intervals in brackets", markup=False)
    for table in (
        _preferences(profile),
        _subsets(profile),
        _downstream(profile),
        _best_of_n(profile),
        _policies(profile),
    ):
        if table.row_count:
            console.print(table)
            console.print()
    for line in [*best_of_n_lines(profile), *note_lines(profile), *quarantine_lines(profile)]:
        console.print(line, markup=False)
    page = _folder(profile, "curation_report") / "index.html"
    if page.is_file():
        console.print(f"report: {page}", soft_wrap=True, markup=False)


def note_lines(profile: Profile) -> list[str]:
    """One line per assumption about a source."""
    return [f"{name}: {note}" for name in assets_of(profile) for note in read_notes(_folder(profile, name))]


def quarantine_lines(profile: Profile) -> list[str]:
    """One line per asset that quarantined rows, with counts by reason."""
    lines = []
    for name in assets_of(profile):
        path = _folder(profile, name) / "quarantine.parquet"
        reasons = pd.read_parquet(path, columns=["reason"])["reason"].value_counts() if path.is_file() else pd.Series()
        if len(reasons):
            parts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            lines.append(f"{name}: {reasons.sum()} rows quarantined ({parts})")
    return lines or ["no rows quarantined"]


def _preferences(profile: Profile) -> Table:
    table = _table("held-out preference accuracy", "label", "value", "n")
    path = _folder(profile, "score_model_report") / "accuracy.json"
    for row in read_json(path) if path.is_file() else []:
        if row["family"] == "all":
            _add_row(table, row["selector"], row["label"], _figure(interval(row)), f"{row['n']:.0f}")
    return table


def _subsets(profile: Profile) -> Table:
    """True quality of the samples that each subset keeps, if the source provides it."""
    table = _table("true quality (1..5)", "captions", "instructions")
    compared = Compared.of(profile)
    for subset in compared.subsets:
        ids = _folder(profile, f"subset_{subset}") / "ids.parquet"
        if ids.is_file():
            kept = pd.read_parquet(ids)["sample_id"]
            _add_row(
                table,
                compared.label(subset),
                *(_quality(profile, name, kept) for name in ("image_text_pairs", "instruction_samples")),
            )
    return table


def _quality(profile: Profile, samples: str, kept: pd.Series) -> str:
    path = _folder(profile, samples) / "samples.parquet"
    if not path.is_file():
        return "none"
    found = pd.read_parquet(path, columns=["sample_id", "true_quality"])
    mean = mean_true_quality(found[found["sample_id"].isin(kept)], profile.seed)
    return UNKNOWN if mean is None else f"{_figure(mean, 2)} n {mean.n}"


def _downstream(profile: Profile) -> Table:
    table = _table("downstream", "model", "value")
    found = {
        (name, row["model"], row["task"], row["metric"]): row
        for name in ("clip_benchmark", "vlm_benchmark")
        if (path := _folder(profile, name) / "results.parquet").is_file()
        for row in rows(path)
    }
    compared = Compared.of(profile)
    for name, task, metric, title in DOWNSTREAM:
        measured = [(model, found.get((name, model, task, metric))) for model in compared.models]
        _add_block(
            table,
            title,
            [(compared.label(model), _figure(interval(row))) for model, row in measured if row is not None],
        )
    return table


def best_of_n_lines(profile: Profile) -> list[str]:
    """What more answers do where the score model picks one, at what cost."""
    folder = _folder(profile, "best_of_n_benchmark")
    if not (folder / "curve.parquet").is_file():
        return []
    wanted = ("score_model", POOLED)
    points = [row for row in rows(folder / "curve.parquet") if (row["selector"], row["task"]) == wanted]
    if not points:
        return []
    last = max(points, key=lambda row: row["n"])
    cost = f"best of {last['n']} ({last['tokens']:.0f} tokens per item, KL {last['kl']:.2f})"
    changes = by_curve(rows(folder / "changes.parquet")).get(wanted, [])
    return [f"{cost}: score model {flag_text(changes)}"]


def _best_of_n(profile: Profile) -> Table:
    path = _folder(profile, "best_of_n_benchmark") / "curve.parquet"
    if not path.is_file():
        return _table()
    curve = [row for row in rows(path) if row["task"] == POOLED]
    table = _table("best of N, all tasks", "N", "value", "share of oracle's gap")
    for selector in dict.fromkeys(row["selector"] for row in curve):
        points = sorted((row for row in curve if row["selector"] == selector), key=lambda row: row["n"])
        shares = {row["n"]: gap_interval(row) for row in points if selector not in ("random", "oracle")}
        cells = [
            (f"{row['n']}", _figure(interval(row)), _figure(share) if (share := shares.get(row["n"])) else "")
            for row in points
        ]
        _add_block(table, selector, cells)
    return table


def _policies(profile: Profile) -> Table:
    table = _table("reward on held-out prompts", "GRPO", "value", "n")
    for name in ("rl_policy", "rl_policy_rules_only"):
        path = _folder(profile, name) / "rewards.json"
        if path.is_file():
            rewards = read_json(path)
            count = f"{rewards['after']['n']:.0f}"
            moments = ("before", "after", "difference")
            _add_block(table, name, [(when, _figure(interval(rewards[when])), count) for when in moments])
    return table


def _table(*headers: str) -> Table:
    """A table without borders: its cells need the 80 columns of a terminal."""
    return Table(*headers, box=None, pad_edge=False)


def _add_block(table: Table, title: str, rows: Sequence[Sequence[str]]) -> None:
    """Adds rows that share their first cell, which is shown once."""
    for number, cells in enumerate(rows):
        _add_row(table, "" if number else title, *cells)


def _folder(profile: Profile, asset: str) -> Path:
    made = assets_of(profile).get(asset)
    return made.folder(profile) if made else profile.data / asset  # a profile with captions alone has no such folder


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(cell) for cell in cells))


def _figure(found: Interval | None, digits: int = 3) -> str:
    """A value with its interval; "not known" if it is missing, no interval where it has no width, as in the report."""
    if found is None:
        return UNKNOWN
    bounds = f" [{found.low:.{digits}f}, {found.high:.{digits}f}]" if found.low < found.high else ""
    return f"{found.value:.{digits}f}{bounds}"
