"""The report's section on the score model itself: how often it prefers the text that the judge or the truth prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.report.blocks import Plots, ReportSection, Table, count, from_file, interval, percent, text_cell
from rsqa_pipeline.report.downstream import paper_figures
from rsqa_pipeline.report.reading import name_of, read_json
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
    return ReportSection(
        "preferences",
        "Does the score model prefer the better text?",
        [accuracy_table(folder), probe_table(folder), Plots(drawings), score_model_curves(inputs)],
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


def probe_table(folder: Path) -> Table:
    """One row per probe: how often a corrupted caption scores lower."""
    rows = [
        [text_cell(name_of(probe["probe"])), count(probe["n"]), percent(interval(probe), f"probe/{probe['probe']}")]
        for probe in read_json(folder / "probes.json")
    ]
    return Table(
        "Probes: a correct caption is corrupted",
        ["corruption", "captions", "score drops, %"],
        rows,
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
