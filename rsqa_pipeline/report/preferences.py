"""The report's section on the score model itself: how often it prefers what the judge, and the truth, prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.report.blocks import Plots, Section, Table, count, from_file, interval, percent, words
from rsqa_pipeline.report.downstream import paper_figures
from rsqa_pipeline.report.reading import name_of, read_json
from rsqa_pipeline.report.training import score_model_curves
from rsqa_pipeline.statistics import Interval

SELECTORS = ("score_model", "clip_score", "random")
EVERY = "all"
"""Family of the rows over every held-out pair."""
LABELS = {"judge": "by the judge", "truth": "by the truth"}
FAMILIES = {EVERY: "all pairs", "rs_specific": "RS-specific"}


def section(inputs: Mapping[str, Path]) -> Section:
    """Held-out preference accuracy by family and label, calibration, training curves."""
    folder = inputs["score_model_report"]
    paper = paper_figures()["preference_accuracy"]["score_model"]
    drawings = [
        from_file(path, f"Score model on held-out pairs: {path.stem.replace('_', ' ')}")
        for path in sorted((folder / "plots").glob("*.png"))
    ]
    return Section(
        "preferences",
        "Does the score model prefer the better text?",
        [accuracy_table(folder), probe_table(folder), Plots(drawings), score_model_curves(inputs)],
        lead="Share of held-out pairs whose preferred text gets the higher score. Chance is 50 %. The paper's 7 B "
        f"model, on its own pairs, reaches {paper:.2f} %. {_trust(read_json(folder / 'calibration.json'))}",
    )


def accuracy_table(folder: Path) -> Table:
    """One row a family and label, one column a selector, and the paired difference.

    Args:
        folder: of ``score_model_report``.
    """
    found, differences = read_json(folder / "accuracy.json"), read_json(folder / "difference.json")
    families = [EVERY, *dict.fromkeys(row["family"] for row in found if row["family"] != EVERY)]
    table = []
    for label in LABELS:
        for family in families:
            figures = {selector: accuracy(found, selector, family, label) for selector in SELECTORS}
            n = max((figure.n for figure in figures.values() if figure is not None), default=0)
            if not n:
                continue
            gap = next((row for row in differences if (row["family"], row["label"]) == (family, label)), None)
            table.append(
                [
                    words(FAMILIES.get(family, name_of(family)), strong=family == EVERY),
                    words(LABELS[label]),
                    count(n),
                    *(percent(figure, f"preference/{name}/{family}/{label}") for name, figure in figures.items()),
                    percent(interval(gap) if gap else None, f"preference/difference/{family}/{label}", signed=True),
                ]
            )
    return Table(
        "Held-out preference accuracy, %",
        ["pairs", "preferred", "number", "score model", "CLIP score", "chance", "score model − CLIP score"],
        table,
        note="CLIP score compares the same two texts with the same image. A tie counts as wrong. The difference is "
        "paired; by the truth, pairs that are equally good are left out.",
    )


def probe_table(folder: Path) -> Table:
    """One row a probe: how often a spoiled caption scores lower."""
    rows = [
        [words(name_of(probe["probe"])), count(probe["n"]), percent(interval(probe), f"probe/{probe['probe']}")]
        for probe in read_json(folder / "probes.json")
    ]
    return Table(
        "Probes: a sound caption, spoiled",
        ["spoiled by", "captions", "score falls, %"],
        rows,
        note="Chosen captions of held-out pairs with one thing made worse. Chance is 50 %.",
    )


def _trust(measured: Mapping[str, Any]) -> str:
    """What the calibration file adds, in words; what is missing there is not said."""
    said = []
    ceiling, error = measured["judge_agrees_with_truth"], measured["calibration"]["ece"]
    if ceiling is not None:
        bounds = f"{100 * ceiling['low']:.1f} to {100 * ceiling['high']:.1f}"
        said.append(f"The judge itself is right by the truth on {100 * ceiling['value']:.1f} % ({bounds}).")
    if error is not None:
        said.append(f"Expected calibration error of the score model: {100 * error:.1f} percentage points.")
    return " ".join(said)


def accuracy(found: Sequence[Mapping[str, Any]], selector: str, family: str, label: str) -> Interval | None:
    """One figure of ``accuracy.json``; None where it was not measured."""
    wanted = (selector, family, label)
    row = next((row for row in found if (row["selector"], row["family"], row["label"]) == wanted), None)
    return interval(row) if row else None
