"""Scores every sample of the corpus with the score model or with CLIP (paper, curation); see `shards`.

Shards and the previous table are kept in the profile's state folder, so that a killed asset is resumed and a grown
corpus only costs its new samples; `rsqa run --force` starts without them. The folder's name is a hash of the scoring
code and the number format; folders with other names are deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from rsqa_pipeline.curated_subsets.corpus import no_samples, stream_corpus
from rsqa_pipeline.curated_subsets.plots import plot_scores
from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.scorers import ModelSpec
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts, ScoreRow, quarantine_path, score_table
from rsqa_pipeline.images.geotiff import DEFAULT_RASTER
from rsqa_pipeline.images.references import parse_reference
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import SCORED_SAMPLE, SPREAD, Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import code_version, settings_version


def run_score_model(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Scores the corpus with the trained score model: scores.parquet, quarantine.parquet, a histogram."""
    path = str(inputs["score_model"] / "model")
    spec = ModelSpec("score_model", path, settings.compute, settings.curated_subsets.batch_size)
    _, metrics = _run(inputs, out, settings, logger, spec, _state_folder(settings, "pair_scores"), "score (unbounded)")
    return metrics


def run_clip(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Scores the corpus with the base CLIP: scores.parquet, quarantine.parquet, a histogram."""
    curation, state = settings.curated_subsets, _state_folder(settings, "clip_scores")
    path = base_model(inputs["base_models"], "clip")
    spec = ModelSpec("clip", path, settings.compute, curation.batch_size, curation.clip_text, state / "embeddings")
    scored, metrics = _run(inputs, out, settings, logger, spec, state, "CLIP score (cosine)")
    return {**metrics, "truncated_texts": float(scored.notes["text_cut"])}


def _state_folder(settings: Profile, asset: str) -> Path:
    """Folder of the asset's shards and previous table; does not depend on model, batch size, device or engine."""
    parts = {"code": code_version("curated_subsets.scoring.corpus_scores"), "dtype": settings.compute.dtype}
    folder = settings.score_cache(asset) / settings_version(parts)[:32]
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    return folder


def _run(
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    spec: ModelSpec,
    state: Path,
    score_name: str,
) -> tuple[ScoreCounts, Metrics]:
    asset, curation = state.parent.name, settings.curated_subsets
    total = sum(1 for _ in stream_corpus(inputs, ["sample_id"]))
    if not total:
        raise no_samples(inputs)
    table = state / "scores.parquet"
    engine = Engine(curation.engine, curation.workers)
    scored = score_table(_rows(inputs), spec, table, asset, curation.shard_rows, engine, total)
    _write_scores(table, out / "scores.parquet")
    shutil.copyfile(quarantine_path(table), out / "quarantine.parquet")
    with_score = _join_samples(inputs, out / "scores.parquet")
    plot_scores(with_score, score_name, out / "plots" / "score_histogram.png")
    metrics: Metrics = {
        "input_rows": float(total),
        "kept_rows": float(scored.rows),
        "quarantined_rows": float(scored.quarantined.total()),
        **{f"quarantined/{reason}": float(count) for reason, count in sorted(scored.quarantined.items())},
        **_score_metrics(with_score),
    }
    logger.log_params({"scorer": asset, "model_version": spec.version})
    logger.log_metrics(metrics)
    return scored, metrics


def _rows(inputs: Mapping[str, Path]) -> Iterator[ScoreRow]:
    for row in stream_corpus(inputs, ["sample_id", "image_id", "image", "messages"]):
        plain = row["image"] is None or parse_reference(row["image"]).raster == DEFAULT_RASTER
        yield ScoreRow(row["sample_id"], row["image"], row["messages"] or [], row["image_id"] if plain else None)


def _write_scores(table: Path, out: Path) -> None:
    """Writes the table's newest scores as rows of SCORED_SAMPLE, with SPREAD if any row has one."""
    file = pq.ParquetFile(table, pre_buffer=False)  # otherwise everything read stays in memory
    has_spread = any(batch.column(0).null_count < len(batch) for batch in file.iter_batches(columns=["spread"]))
    schema = SCORED_SAMPLE.append(SPREAD) if has_spread else SCORED_SAMPLE
    with pq.ParquetWriter(out, schema) as writer:
        for batch in file.iter_batches(columns=["key", *schema.names[1:]]):
            writer.write_batch(batch.rename_columns(["sample_id" if n == "key" else n for n in batch.schema.names]))


def _join_samples(inputs: Mapping[str, Path], scores: Path) -> pd.DataFrame:
    """Scored rows: columns sample_id, kind, source, true_quality (NaN if unknown), score, model_version."""
    samples = pd.DataFrame(stream_corpus(inputs, ["sample_id", "source", "true_quality"]))
    samples = samples.drop(columns="split").astype({"true_quality": float})
    return samples.merge(pd.read_parquet(scores), on="sample_id", validate="one_to_one")


def _score_metrics(scored: pd.DataFrame) -> Metrics:
    """Mean and standard deviation of the scores per kind, and rank correlation with the true quality if known."""
    metrics: Metrics = {}
    for kind, rows in scored.groupby("kind"):
        metrics[f"mean_score_{kind}s"] = float(rows["score"].mean())
        metrics[f"score_deviation_{kind}s"] = float(rows["score"].std(ddof=0))
        known = rows.dropna(subset=["true_quality"])
        if known["score"].nunique() > 1 and known["true_quality"].nunique() > 1:
            rank_correlation = spearmanr(known["score"], known["true_quality"]).statistic
            metrics[f"rank_correlation_with_truth_{kind}s"] = float(rank_correlation)
    return metrics
