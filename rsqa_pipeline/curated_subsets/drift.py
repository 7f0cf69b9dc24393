"""Score drift between two model versions or two corpora: distributions, and ranks of common samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import kendalltau, ks_2samp

from rsqa_pipeline.curated_subsets.selection.ranking import kept_count, uniform
from rsqa_pipeline.curated_subsets.selection.score_reader import ScoreTable
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.plots import INK, new_panels, save
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics, read_table
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger

BINS = 10
TOP_SHARE = 0.3
Values = npt.NDArray[np.float64]
_OLD, _NEW = "#8a8f98", "#d1495b"
_MAX_POINTS = 5000


@dataclass(frozen=True)
class DriftFigures:
    """Comparison of old and new scores."""

    old_samples: int
    new_samples: int
    common_samples: int
    psi: float
    """Population stability index over deciles of the old scores; usually above 0.1 is some shift, 0.25 a large one."""
    ks: float
    """Kolmogorov-Smirnov distance in [0, 1]."""
    ks_p_value: float
    kendall_tau: float | None
    """Rank correlation (tau-b) of the common samples, in [-1, 1]; None with fewer than two, or if all scores tie."""
    top_30_jaccard: float | None
    """Jaccard index of the best 30 % of the common samples by old and by new scores, in [0, 1]; None without any."""

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def compare_scores(old: pd.Series, new: pd.Series) -> DriftFigures:
    """Compares two series of scores, indexed by id, without missing values. Raises DataError if one is empty."""
    if old.empty or new.empty:
        raise DataError(f"needs old and new scores, found {len(old)} old and {len(new)} new ones")
    common = old.index.intersection(new.index)
    before, after = old[common], new[common]
    tau = float(kendalltau(before, after).statistic) if len(common) > 1 else np.nan
    ks = ks_2samp(old, new)
    return DriftFigures(
        old_samples=len(old),
        new_samples=len(new),
        common_samples=len(common),
        psi=psi(old.to_numpy(dtype=float), new.to_numpy(dtype=float)),
        ks=float(ks.statistic),
        ks_p_value=float(ks.pvalue),
        kendall_tau=None if np.isnan(tau) else tau,
        top_30_jaccard=top_overlap(before, after) if len(common) else None,
    )


def psi(old: Values, new: Values) -> float:
    """Population stability index, sum of (q - p) ln(q / p) over bins between the old scores' deciles, >= 0.

    p and q are the old and new shares. Half a sample is added to each bin, so that an empty bin gives a finite value.
    """
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = []
    for scores in (old, new):
        counts = np.bincount(np.searchsorted(edges, scores, side="left"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def top_overlap(old: pd.Series, new: pd.Series, share: float = TOP_SHARE) -> float:
    """Jaccard index of the best ``share`` by old and by new scores of the same ids; ties are ordered by id."""
    tops = []
    for scores in (old, new):
        ordered = pd.DataFrame({"score": scores, "id": scores.index}).sort_values(
            ["score", "id"], ascending=[False, True]
        )
        tops.append(set(ordered["id"].head(kept_count(len(ordered), share))))
    return len(tops[0] & tops[1]) / len(tops[0] | tops[1])


def read_scores(path: Path) -> pd.Series:
    """Score model scores of a score file, indexed by id; rows without a score are left out.

    Raises:
        DataError: the file does not exist, or has no column of ids or scores.
    """
    table = ScoreTable(path)
    columns = [table.id, table.column("score_model")]
    parts = [batch.to_pandas() for _, batch in table.batches(columns)]
    frame = pd.concat(parts) if parts else pd.DataFrame({name: [] for name in columns})
    return frame.dropna().drop_duplicates(columns[0]).set_index(columns[0])[columns[1]].astype(float)


def write_drift(found: DriftFigures, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")


def plot_drift(old: pd.Series, new: pd.Series, names: tuple[str, str], path: Path) -> None:
    """Plots both distributions and, if there are common samples, their new ranks over their old ranks."""
    common = old.index.intersection(new.index)
    figure, axes = new_panels(2 if len(common) else 1, width=10.0 if len(common) else 5.2, height=3.8)
    edges = np.histogram_bin_edges(np.concatenate([old.to_numpy(), new.to_numpy()]), bins=40).tolist()
    for scores, name, tint in ((old, names[0], _OLD), (new, names[1], _NEW)):
        weights = np.full(len(scores), 100 / len(scores))
        axes[0].hist(scores, bins=edges, weights=weights, color=tint, alpha=0.6, label=f"{name}, {len(scores):,}")
    axes[0].set_title("Distribution of scores")
    axes[0].set_xlabel("score")
    axes[0].set_ylabel("samples, %")
    if len(common):
        every = max(1, len(common) // _MAX_POINTS)
        shares = [100 * scores[common].rank(pct=True).to_numpy()[::every] for scores in (old, new)]
        axes[1].scatter(shares[0], shares[1], s=8, alpha=0.5, color=_NEW, linewidths=0)
        for line in (axes[1].axvline, axes[1].axhline):
            line(100 * (1 - TOP_SHARE), color=INK, linestyle="--", linewidth=1)
        axes[1].set_title("Rank of each common sample")
        axes[1].set_xlabel(f"percentile, {names[0]}")
        axes[1].set_ylabel(f"percentile, {names[1]}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, path)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Stage ``curated_subsets``, asset ``score_drift``: drift.json and plots/drift.png.

    Captions of the corpus, drawn by hash, are scored by the caption phase's model ("old") and by the final one ("new").

    Args:
        inputs: ``pair_scores``, ``caption_score_model``, ``image_text_pairs``.

    Raises:
        DataError: no caption has a score from both models.
    """
    final = {row["sample_id"]: row["score"] for row in read_table(inputs["pair_scores"] / "scores.parquet")}
    rows = [row for row in read_table(inputs["image_text_pairs"] / "samples.parquet") if row["sample_id"] in final]
    draws = uniform([row["sample_id"] for row in rows], settings.seed)
    drawn = [rows[index] for index in np.argsort(draws, kind="stable")[: settings.curated_subsets.drift.samples]]
    scorer = Scorer.load(inputs["caption_score_model"] / "model", settings.compute)
    groups = [ScoringGroup(row["image"], row["messages"][:-1], [row["messages"][-1]["content"]]) for row in drawn]
    scores = {row["sample_id"]: score for row, (score,) in zip(drawn, scorer.score(groups), strict=True)}
    old = pd.Series({key: score for key, score in scores.items() if score is not None}, dtype=float)
    new = pd.Series({key: final[key] for key in old.index}, dtype=float)
    found = compare_scores(old, new)
    write_drift(found, out / "drift.json")
    plot_drift(old, new, ("caption phase", "final model"), out / "plots" / "drift.png")
    metrics = {name: float(value) for name, value in found.as_dict().items() if value is not None}
    logger.log_metrics(metrics)
    return metrics
