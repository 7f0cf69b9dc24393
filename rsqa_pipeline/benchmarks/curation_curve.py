"""How much to keep: a downstream metric over the fraction of captions kept, per ranking, with an interval band.

The paper fine-tunes whole models on a few fractions. Here a cheap proxy, the linear captioner, is trained on each part
and predicts the words of the test images' captions (`linear_captioner.words_right`). This makes many fractions,
rankings and seeds affordable. On the demo the proxy orders the four subsets like the VLMs fine-tuned on them: the score
model's part well ahead, all data and CLIP score's part level, random last. Retrieval by a linear map onto CLIP's text
embeddings had smaller gaps, retrieval by TF-IDF another order. The curve guides the choice of the fraction. It is not a
result of a fine-tuned model, and it does not cover instructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rsqa_pipeline.benchmarks.linear_captioner import Floats, Vocabulary, fit_predict, words_right
from rsqa_pipeline.curated_subsets.selection.apply_rule import apply_rule
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.clip_embeddings import embed_images
from rsqa_pipeline.models.load import base_model, load_clip
from rsqa_pipeline.plots import colour, new_figure, save
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import Metrics, read_table, write_table
from rsqa_pipeline.statistics import CONFIDENCE, Interval
from rsqa_pipeline.tracking.run_logger import RunLogger

CURVE = pa.schema(
    [
        ("ranking", pa.string()),  # score_model | clip_score | random
        ("fraction", pa.float64()),  # of the captions, in (0, 1]
        ("captions", pa.int64()),  # kept
        ("value", pa.float64()),  # words right, in [0, 1], as are low and high
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),  # test images
    ]
)
"""Example: ``{"ranking": "score_model", "fraction": 0.3, "captions": 589, "value": 0.783, "low": 0.769,
"high": 0.797, "n": 200}``"""

_NAMES = {"score_model": "score model", "clip_score": "CLIP score", "random": "random"}
SCORES = {"score_model": "pair_scores", "clip_score": "clip_scores"}

WordsRight = dict[tuple[str, float], Floats]
"""(ranking, fraction) -> (seeds, test images) share of words right."""


@dataclass(frozen=True)
class CurveData:
    """The captions of the corpus and the test images."""

    samples: pd.DataFrame
    """sample_id, kind, score_model, clip_score."""
    images: Floats
    """(captions, width) embeddings of the captions' images."""
    words: Any
    """(captions, words) sparse."""
    test_images: Floats
    """(items, width)."""
    test_words: npt.NDArray[np.bool_]
    """(items, words)."""


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Stage ``benchmarks``, asset ``curation_curve``: curve.parquet, smallest.json, plots/curation_curve.png.

    Args:
        inputs: ``pair_scores``, ``clip_scores``, ``image_text_pairs``, ``base_models``, ``benchmark_sets``.

    Raises:
        DataError: no caption of split "corpus", no test image with captions, or no word in common.
    """
    config = settings.benchmarks
    data = _load_data(inputs, settings)
    fractions = sorted(config.curve.fractions)
    found = {
        (ranking, fraction): _train_and_test(data, ranking, fraction, config.curve.seeds, settings.seed)
        for ranking in config.curve.rankings
        for fraction in fractions
    }
    rows = []
    for (ranking, fraction), (captions, values) in found.items():
        band = asdict(seed_and_item_band(values, config.bootstrap_resamples, settings.seed))
        rows.append({"ranking": ranking, "fraction": fraction, "captions": captions, **band})
    words_right_of: WordsRight = {name: values for name, (_, values) in found.items()}
    smallest: dict[str, dict[str, float]] = {
        ranking: smallest_sufficient_fraction(words_right_of, ranking, config.bootstrap_resamples, settings.seed)
        for ranking in config.curve.rankings
    }
    baseline = _constant_prediction(data)
    write_table(out / "curve.parquet", CURVE, rows)
    notes = {"rankings": smallest, "same_words_for_all": baseline, "seeds": config.curve.seeds}
    (out / "smallest.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
    plot_curve(rows, smallest, baseline, out / "plots" / "curation_curve.png")
    metrics = {f"{row['ranking']}/{row['fraction']:g}": float(row["value"]) for row in rows}
    metrics |= {f"smallest_fraction/{name}": float(result["smallest_fraction"]) for name, result in smallest.items()}
    logger.log_metrics(metrics)
    return metrics


def seed_and_item_band(values: Floats, resamples: int, seed: int) -> Interval:
    """Mean of (seeds, items) values with a 95 % percentile bootstrap that resamples seeds and items."""
    rng = np.random.default_rng(seed)
    seeds, items = values.shape
    means = np.empty(resamples)
    for number in range(resamples):
        drawn = values[rng.integers(0, seeds, seeds)].mean(axis=0)
        means[number] = drawn[rng.integers(0, items, items)].mean()
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(values.mean())
    return Interval(value, min(float(low), value), max(float(high), value), items)


def smallest_sufficient_fraction(values: WordsRight, ranking: str, resamples: int, seed: int) -> dict[str, float]:
    """The smallest fraction that is not significantly worse than the ranking's best fraction.

    Not significantly worse: the paired interval of best minus this fraction, over seeds and test images, reaches zero.
    """
    fractions = sorted(fraction for name, fraction in values if name == ranking)
    best = max(fractions, key=lambda fraction: (values[ranking, fraction].mean(), -fraction))
    for fraction in fractions:
        gap = seed_and_item_band(values[ranking, best] - values[ranking, fraction], resamples, seed)
        if gap.low <= 0:
            break
    figures = {"difference": gap.value, "low": gap.low, "high": gap.high}
    return {"best_fraction": best, "smallest_fraction": fraction, **figures}


def plot_curve(
    rows: list[dict[str, Any]], smallest: Mapping[str, Mapping[str, float]], baseline: float, path: Path
) -> None:
    """Words right over the fraction kept, one line and band per ranking.

    A ring marks the smallest fraction that is not significantly worse than the best.
    """
    figure, axes = new_figure(7.0, 4.2)
    for ranking, result in smallest.items():
        line = [row for row in rows if row["ranking"] == ranking]
        share = [100 * row["fraction"] for row in line]
        lows, highs, values = ([100 * row[name] for row in line] for name in ("low", "high", "value"))
        axes.fill_between(share, lows, highs, color=colour(ranking), alpha=0.15, linewidth=0)
        axes.plot(share, values, "o-", color=colour(ranking), label=_NAMES[ranking])
        at = share.index(100 * result["smallest_fraction"])
        axes.plot(share[at], values[at], "o", markersize=14, fillstyle="none", color=colour(ranking))
    axes.axhline(100 * baseline, color="black", linestyle="dashed", linewidth=1.3, label="same words for all images")
    axes.set_title("What a linear captioner learns from the part kept")
    axes.set_xlabel("captions kept, %; ring: smallest part not significantly worse than the best")
    axes.set_ylabel("words right, %, 95 % band")
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, path)


def _load_data(inputs: Mapping[str, Path], settings: Profile) -> CurveData:
    rows = [row for row in read_table(inputs["image_text_pairs"] / "samples.parquet") if row["split"] == "corpus"]
    items = [row for row in read_table(inputs["benchmark_sets"] / "items.parquet") if row["captions"]]
    if not rows or not items:
        raise DataError(f"needs corpus captions and test images with captions, found {len(rows)} and {len(items)}")
    texts = [row["messages"][-1]["content"] for row in rows]
    samples = pd.DataFrame({"sample_id": [row["sample_id"] for row in rows], "kind": "caption"})
    for name, asset in SCORES.items():
        scores = {row["sample_id"]: row["score"] for row in read_table(inputs[asset] / "scores.parquet")}
        samples[name] = samples["sample_id"].map(scores).astype(float)
    words = Vocabulary(texts)
    test_words = words.encode([" ".join(item["captions"]) for item in items]).toarray() > 0
    known = test_words.any(axis=1)
    if not known.any():
        raise DataError("no caption of a test image shares a word with the corpus; are both in the same language?")
    clip = load_clip(base_model(inputs["base_models"], "clip"), settings.compute)
    references = {row["image_id"]: row["image"] for row in rows}
    vectors = embed_images(clip, list(references.values()), settings.benchmarks.batch_size).astype(np.float64)
    row_of_image = {image_id: number for number, image_id in enumerate(references)}
    test_references = [item["image"] for item, usable in zip(items, known, strict=True) if usable]
    return CurveData(
        samples,
        vectors[[row_of_image[row["image_id"]] for row in rows]],
        words.encode(texts),
        embed_images(clip, test_references, settings.benchmarks.batch_size).astype(np.float64),
        test_words[known],
    )


def _train_and_test(data: CurveData, ranking: str, fraction: float, seeds: int, seed: int) -> tuple[int, Floats]:
    """Number of captions kept, and (seeds, items) share of words right.

    Each seed resamples the kept captions with replacement. The random ranking also keeps other captions per seed.
    """
    rule = SubsetRule.model_validate({"selector": ranking, "caption_fraction": fraction})
    values = []
    kept = np.flatnonzero(apply_rule(data.samples, rule, seed)["kept"])
    for number in range(seeds):
        if ranking == "random":
            kept = np.flatnonzero(apply_rule(data.samples, rule, seed + number)["kept"])
        drawn = np.random.default_rng([seed, number]).integers(0, len(kept), len(kept))
        weights = np.bincount(drawn, minlength=len(kept)).astype(np.float64)
        predicted = fit_predict(data.images[kept], data.words[kept], weights, data.test_images)
        values.append(words_right(predicted, data.test_words))
    return len(kept), np.stack(values)


def _constant_prediction(data: CurveData) -> float:
    """Share of words right if the corpus' most frequent words are predicted for every image."""
    frequency = np.asarray(data.words.mean(axis=0)).ravel()
    return float(words_right(np.tile(frequency, (len(data.test_words), 1)), data.test_words).mean())
