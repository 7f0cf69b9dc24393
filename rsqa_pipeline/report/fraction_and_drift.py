"""Of the report's section on curation: how much to keep, and how far scores moved between the model's last phases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rsqa_pipeline import plots
from rsqa_pipeline.report.blocks import UNKNOWN, Block, Cell, Plots, Table, count, from_file, interval, percent, words
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.statistics import Interval


def curve_blocks(inputs: Mapping[str, Path]) -> list[Block]:
    """The curation curve, its figures, and the smallest fraction that is as good as the best."""
    folder = inputs["curation_curve"]
    notes = read_json(folder / "smallest.json")
    by_ranking: dict[str, dict[float, Interval | None]] = {}
    for row in rows(folder / "curve.parquet"):
        by_ranking.setdefault(row["ranking"], {})[row["fraction"]] = interval(row)
    fractions = sorted({fraction for figures in by_ranking.values() for fraction in figures})
    table = Table(
        "Words of the test captions right, % of each, by captions kept",
        ["ranking", *(f"{100 * fraction:g} %" for fraction in fractions), "best at", "smallest as good"],
        [
            [
                words(name_of(ranking), tint=plots.colour(ranking)),
                *(percent(figures.get(at), f"curve/{ranking}/{at:g}") for at in fractions),
                Cell(f"{100 * notes['rankings'][ranking]['best_fraction']:g} %", key=f"curve/{ranking}/best"),
                Cell(f"{100 * notes['rankings'][ranking]['smallest_fraction']:g} %", key=f"curve/{ranking}/smallest"),
            ]
            for ranking, figures in by_ranking.items()
        ],
        note=f"A linear captioner on frozen CLIP embeddings, {notes['seeds']} seeds; 95 % bootstrap interval over "
        f"seeds and test images. The same words for every image get {100 * notes['same_words_for_all']:.1f} right. As "
        "good: the paired interval of the difference to the best reaches zero. A proxy, no fine-tuned model.",
    )
    picture = from_file(
        folder / "plots" / "curation_curve.png",
        "Words that a linear captioner gets right over the share of captions kept, for each ranking, with bands",
    )
    return [Plots([picture]), table]


def drift_blocks(inputs: Mapping[str, Path]) -> list[Block]:
    """Distributions and ranks of the same captions by the caption phase's model and by the final one."""
    folder = inputs["score_drift"]
    found = read_json(folder / "drift.json")
    table = Table(
        "Scores of the caption phase's model against the final one's",
        ["measure", "value"],
        [[words("captions scored by both"), count(found["common_samples"], key="drift/common_samples")]]
        + [
            [words(name_of(name)), _figure(found[name], f"drift/{name}")]
            for name in ("psi", "ks", "ks_p_value", "kendall_tau", "top_30_jaccard")
        ],
        note="PSI above 0.25 by custom is a large shift: a threshold on one version's scores does not hold for the "
        "other's. Kendall's tau and the overlap tell whether they rank alike.",
    )
    picture = from_file(
        folder / "plots" / "drift.png", "Distribution of both models' scores, and the rank of each caption by both"
    )
    return [Plots([picture]), table]


def _figure(value: float | None, key: str) -> Cell:
    if value is None:
        return Cell(UNKNOWN, key=key, number=False)
    text = "below 0.001" if 0 < value < 0.0005 else f"{value:.3f}".replace("-", "−")
    return Cell(text, key=key)
