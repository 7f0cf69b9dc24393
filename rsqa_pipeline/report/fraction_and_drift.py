"""Blocks of the report's curation section: how much to keep, and how much scores drift between the last two phases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rsqa_pipeline import plots
from rsqa_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Plots,
    Table,
    count,
    from_file,
    interval,
    percent,
    text_cell,
)
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.statistics import Interval


def curve_blocks(inputs: Mapping[str, Path]) -> list[Block]:
    """The curation curve, its values, and the smallest fraction that is not significantly worse than the best."""
    folder = inputs["curation_curve"]
    notes = read_json(folder / "smallest.json")
    by_ranking: dict[str, dict[float, Interval | None]] = {}
    for row in rows(folder / "curve.parquet"):
        by_ranking.setdefault(row["ranking"], {})[row["fraction"]] = interval(row)
    fractions = sorted({fraction for figures in by_ranking.values() for fraction in figures})
    table = Table(
        "Words of the test captions predicted right, %, by share of captions kept",
        ["ranking", *(f"{100 * fraction:g} %" for fraction in fractions), "best", "smallest, not worse"],
        [
            [
                text_cell(name_of(ranking), tint=plots.colour(ranking)),
                *(percent(figures.get(at), f"curve/{ranking}/{at:g}") for at in fractions),
                Cell(f"{100 * notes['rankings'][ranking]['best_fraction']:g} %", key=f"curve/{ranking}/best"),
                Cell(f"{100 * notes['rankings'][ranking]['smallest_fraction']:g} %", key=f"curve/{ranking}/smallest"),
            ]
            for ranking, figures in by_ranking.items()
        ],
        note=f"A linear captioner on frozen CLIP embeddings, {notes['seeds']} seeds; 95 % bootstrap interval over "
        f"seeds and test images. The same words for every image get {100 * notes['same_words_for_all']:.1f} % right. "
        "Not worse: the paired interval of the difference to the best reaches 0. A proxy, not a fine-tuned model.",
    )
    picture = from_file(
        folder / "plots" / "curation_curve.png",
        "Words that a linear captioner gets right over the share of captions kept, one line and band per ranking",
    )
    return [Plots([picture]), table]


def drift_blocks(inputs: Mapping[str, Path]) -> list[Block]:
    """Scores and ranks of the same captions by the caption phase's model and by the final model."""
    folder = inputs["score_drift"]
    found = read_json(folder / "drift.json")
    table = Table(
        "Scores of the caption phase's model against the final model's",
        ["measure", "value"],
        [[text_cell("captions scored by both models"), count(found["common_samples"], key="drift/common_samples")]]
        + [
            [text_cell(name_of(name)), _drift_cell(found[name], f"drift/{name}")]
            for name in ("psi", "ks", "ks_p_value", "kendall_tau", "top_30_jaccard")
        ],
        note="By convention, PSI above 0.25 is a large shift: a threshold on one model's scores does not hold for the "
        "other's. Kendall's tau and the overlap show whether both models rank alike.",
    )
    picture = from_file(
        folder / "plots" / "drift.png",
        "Distribution of both models' scores, and the rank of each caption by both models",
    )
    return [Plots([picture]), table]


def _drift_cell(value: float | None, key: str) -> Cell:
    if value is None:
        return Cell(UNKNOWN, key=key, number=False)
    text = "below 0.001" if 0 < value < 0.0005 else f"{value:.3f}".replace("-", "−")
    return Cell(text, key=key)
