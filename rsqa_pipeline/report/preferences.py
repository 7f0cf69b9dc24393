"""The report's section on the score model itself: how often it prefers the text that the judge or the truth prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.report.blocks import Plots, ReportSection, Table, count, from_file, interval, percent, text_cell
from rsqa_pipeline.report.downstream import POOLED, paper_figures
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.report.training import score_model_curves
from rsqa_pipeline.statistics import Interval

SELECTORS = ("score_model", "clip_score", "random")
ALL_FAMILIES = "all"
"""Family name of the rows over all held-out pairs."""
LABELS = {"judge": "by the judge", "truth": "by the truth"}
FAMILIES = {ALL_FAMILIES: "all pairs", "rs_specific": "RS-specific"}


def section(inputs: Mapping[str, Path]) -> ReportSection:
    """Held-out preference accuracy by family and label, calibration, training curves."""
    folder = inputs["score_model_report"]
    paper = paper_figures()["preference_accuracy"]["score_model"]
    drawings = [
        from_file(path, f"Score model on held-out pairs: {path.stem.replace('_', ' ')}")
        for path in sorted((folder / "plots").glob("*.png"))
    ]
    bench = inputs["reward_bench"]
    drawings.append(from_file(bench / "plots" / "accuracy.png", "Reward bench: accuracy by kind of fault"))
    return ReportSection(
        "preferences",
        "Does the score model prefer the better text?",
        [
            accuracy_table(folder),
            reward_bench_table(bench),
            probe_table(folder),
            Plots(drawings),
            score_model_curves(inputs),
        ],
        lead="Share of held-out pairs whose preferred text gets the higher score. Chance is 50 %. The paper's 7B "
        f"model reaches {paper:.2f} % on its own pairs. "
        f"{_judge_and_calibration(read_json(folder / 'calibration.json'))}",
    )


def accuracy_table(folder: Path) -> Table:
    """One row per family and label, one column per selector, and the paired difference.

    Args:
        folder: folder of ``score_model_report``.
    """
    found, differences = read_json(folder / "accuracy.json"), read_json(folder / "difference.json")
    families = [ALL_FAMILIES, *dict.fromkeys(row["family"] for row in found if row["family"] != ALL_FAMILIES)]
    table = []
    for label in LABELS:
        for family in families:
            values = {selector: accuracy(found, selector, family, label) for selector in SELECTORS}
            n = max((figure.n for figure in values.values() if figure is not None), default=0)
            if not n:
                continue
            gap = next((row for row in differences if (row["family"], row["label"]) == (family, label)), None)
            table.append(
                [
                    text_cell(
                        f"{FAMILIES.get(family, name_of(family))}, {LABELS[label]}", strong=family == ALL_FAMILIES
                    ),
                    *(percent(figure, f"preference/{name}/{family}/{label}") for name, figure in values.items()),
                    percent(interval(gap) if gap else None, f"preference/difference/{family}/{label}", signed=True),
                    count(n),
                ]
            )
    return Table(
        "Held-out preference accuracy, %",
        ["pairs", "score model", "CLIP score", "chance", "score model − CLIP score", "number"],
        table,
        note="CLIP score rates the same two texts against the same image. Ties count as wrong. The difference is "
        "paired. By the truth, pairs of equal quality are left out.",
    )


def reward_bench_table(folder: Path) -> Table:
    """One row per kind of fault: how often the right text has the higher score, against one and against three wrong
    ones.

    Args:
        folder: folder of ``reward_bench``.
    """
    found = {(row["task"], row["metric"], row["model"]): row for row in rows(folder / "results.parquet")}
    gaps = {(row["task"], row["metric"]): row for row in rows(folder / "comparisons.parquet")}
    kinds, metrics = (list(dict.fromkeys(key[part] for key in found)) for part in (0, 1))
    kinds.sort(key=lambda kind: kind != POOLED)
    table = []
    for kind in kinds:
        cells = [text_cell(name_of(kind.removeprefix("reward_")), strong=kind == POOLED)]
        for metric in metrics:
            for scorer in SELECTORS[:2]:
                cells.append(percent(interval(found[kind, metric, scorer]), f"reward_bench/{scorer}/{kind}/{metric}"))
            difference = interval(gaps[kind, metric])
            cells.append(percent(difference, f"reward_bench/difference/{kind}/{metric}", signed=True))
        table.append([*cells, count(found[kind, metrics[0], SELECTORS[0]]["n"])])
    absent = [task.name for task in load_tasks("scorer") if task.name not in kinds]
    names = ", ".join(name_of(name.removeprefix("reward_")) for name in absent)
    levels = ", ".join(f"{found[kinds[0], metric, SELECTORS[0]]['chance']:.0%}" for metric in metrics)
    return Table(
        "Reward bench: the right text above texts with one fault, %",
        ["fault", *["score model", "CLIP score", "difference"] * len(metrics), "sets"],
        table,
        [("", 1), *((name_of(metric), 3) for metric in metrics), ("", 1)],
        note=f"Each set is one right text and three wrong ones about an image of the benchmarks. Chance: {levels}. "
        "Ties count as wrong; intervals resample images." + (f" Not made from this data: {names}." if absent else ""),
    )


def probe_table(folder: Path) -> Table:
    """One row per probe: how often a corrupted caption scores lower."""
    table = [
        [text_cell(name_of(probe["probe"])), count(probe["n"]), percent(interval(probe), f"probe/{probe['probe']}")]
        for probe in read_json(folder / "probes.json")
    ]
    return Table(
        "Probes: a correct caption is corrupted",
        ["corruption", "captions", "score drops, %"],
        table,
        note="Chosen captions of held-out pairs with one corruption each. Chance is 50 %.",
    )


def _judge_and_calibration(measured: Mapping[str, Any]) -> str:
    """Text on the judge's accuracy and the calibration error; missing values are left out."""
    sentences = []
    ceiling, error = measured["judge_agrees_with_truth"], measured["calibration"]["ece"]
    if ceiling is not None:
        bounds = f"{100 * ceiling['low']:.1f} to {100 * ceiling['high']:.1f}"
        sentences.append(f"The judge agrees with the truth on {100 * ceiling['value']:.1f} % ({bounds}).")
    if error is not None:
        sentences.append(f"Expected calibration error of the score model: {100 * error:.1f} percentage points.")
    return " ".join(sentences)


def accuracy(found: Sequence[Mapping[str, Any]], selector: str, family: str, label: str) -> Interval | None:
    """One value of ``accuracy.json``; None if it was not measured."""
    wanted = (selector, family, label)
    row = next((row for row in found if (row["selector"], row["family"], row["label"]) == wanted), None)
    return interval(row) if row else None
