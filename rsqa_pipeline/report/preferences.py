"""The report's section on the score model itself: how often it prefers what the judge, and the truth, prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.report.blocks import Plots, Section, Table, count, from_file, interval, percent, words
from rsqa_pipeline.report.downstream import paper_figures
from rsqa_pipeline.report.reading import name_of, read_json
from rsqa_pipeline.report.training import score_model_curves
from rsqa_pipeline.statistics import Interval, wilson

SELECTORS = ("score_model", "clip_score", "random")
EVERY = "all"
"""Family of the rows over every held-out pair."""
LABELS = {"judge": "by the judge", "truth": "by the truth"}
FAMILIES = {EVERY: "all pairs", "rs_specific": "RS-specific"}


def section(inputs: Mapping[str, Path]) -> Section:
    """Held-out preference accuracy by family and label, calibration, training curves."""
    folder = inputs["score_model_report"]
    found = read_json(folder / "accuracy.json")
    paper = paper_figures()["preference_accuracy"]["score_model"]
    drawings = [
        from_file(path, f"Score model on held-out pairs: {path.stem.replace('_', ' ')}")
        for path in sorted((folder / "plots").glob("*.png"))
    ]
    return Section(
        "preferences",
        "Does the score model prefer the better text?",
        [accuracy_table(found), Plots(drawings), score_model_curves(inputs)],
        lead="Share of held-out pairs whose preferred text gets the higher score. Chance is 50 %. The paper's 7 B model, on "
        f"its own pairs, reaches {paper:.2f} %.",
    )


def accuracy_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """One row a family and label, one column a selector."""
    families = [EVERY, *dict.fromkeys(row["family"] for row in found if row["family"] != EVERY)]
    table = []
    for label in LABELS:
        for family in families:
            figures = {selector: accuracy(found, selector, family, label) for selector in SELECTORS}
            n = max((figure.n for figure in figures.values() if figure is not None), default=0)
            if not n:
                continue
            table.append(
                [
                    words(FAMILIES.get(family, name_of(family)), strong=family == EVERY),
                    words(LABELS[label]),
                    count(n),
                    *(
                        percent(figure, f"preference/{name}/{family}/{label}")
                        for name, figure in figures.items()
                    ),
                ]
            )
    return Table(
        "Held-out preference accuracy, %",
        ["pairs", "preferred", "number", *(name_of(selector) for selector in SELECTORS)],
        table,
        note="95 % intervals. CLIP score compares the same two texts with the same image; a tie counts as half.",
    )


def accuracy(found: Sequence[Mapping[str, Any]], selector: str, family: str, label: str) -> Interval | None:
    """One figure; over every pair it is pooled from the families where no such row stands. None where not measured."""
    rows = [
        row
        for row in found
        if (row["selector"], row["label"]) == (selector, label) and row["value"] is not None
    ]
    exact = [row for row in rows if row["family"] == family]
    if exact:
        return interval(exact[0])
    if family != EVERY or not rows:
        return None
    return wilson(round(sum(row["value"] * row["n"] for row in rows)), sum(row["n"] for row in rows))
