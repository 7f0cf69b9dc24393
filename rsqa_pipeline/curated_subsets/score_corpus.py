"""A score for every sample of the corpus, shard by shard, by the score model or by CLIP (paper, curation)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import spearmanr
from tqdm import tqdm

from rsqa_pipeline.curated_subsets.corpus import TABLES, in_shards, read_corpus
from rsqa_pipeline.curated_subsets.plots import plot_scores
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.models.scoring_group import Group, Score
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import QUARANTINE, SCORED_SAMPLE, Metrics, canonical_messages, write_table
from rsqa_pipeline.score_model.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger


class CorpusScorer(Protocol):
    """What scores a corpus: the score model's scorer, CLIP's."""

    version: str

    def score_or_reason(self, groups: Sequence[Group]) -> list[list[Score]]: ...


def run_score_model(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Scores the corpus with the trained score model: scores.parquet, quarantine.parquet, a histogram."""
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    return _run(inputs, out, settings, logger, scorer, "pair_scores", "score (unbounded)")


def run_clip(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Scores the corpus with the base CLIP: scores.parquet, quarantine.parquet, a histogram."""
    clip, batch_size = base_model(inputs["base_models"], "clip"), settings.curated_subsets.batch_size
    scorer = ClipScorer.load(clip, settings.compute, batch_size)
    metrics = _run(inputs, out, settings, logger, scorer, "clip_scores", "CLIP score (cosine)")
    metrics["truncated_texts"] = float(scorer.truncated)
    return metrics


def _run(
    inputs: Mapping[str, Path],
    out: Path,
    settings: Profile,
    logger: RunLogger,
    scorer: CorpusScorer,
    stage: str,
    score_name: str,
) -> Metrics:
    rows = read_corpus(inputs)
    if not rows:
        raise DataError(f"no sample of split 'corpus' in {' or '.join(str(inputs[asset]) for asset in TABLES)}")
    curation = settings.curated_subsets
    score_shards(rows, out, scorer, stage, curation.shard_rows)
    scores = pq.read_table(out / "scores.parquet").to_pandas()
    reasons = Counter(pq.read_table(out / "quarantine.parquet").column("reason").to_pylist())
    samples = pd.DataFrame(rows)[["sample_id", "kind", "source", "true_quality"]].astype({"true_quality": float})
    scored = samples.merge(scores, on="sample_id", validate="one_to_one")
    plot_scores(scored, score_name, out / "plots" / "score_histogram.png")
    metrics: Metrics = {
        "input_rows": float(len(rows)),
        "kept_rows": float(len(scores)),
        "quarantined_rows": float(sum(reasons.values())),
        **{f"quarantined/{reason}": float(count) for reason, count in sorted(reasons.items())},
        **_score_metrics(scored),
    }
    logger.log_params({"scorer": stage, "model_version": scorer.version})
    logger.log_metrics(metrics)
    return metrics


def score_shards(rows: Sequence[dict[str, Any]], out: Path, scorer: CorpusScorer, stage: str, shard_rows: int) -> None:
    """Scores ``rows`` shard by shard and merges the shards in the rows' order: scores.parquet, quarantine.parquet.

    Every row ends in one of the two. A shard's tables appear whole or not at all.
    """
    shards = out / "shards"
    shards.mkdir()
    with tqdm(total=len(rows), desc=stage, unit="row") as bar:
        for number, shard in enumerate(in_shards(list(rows), shard_rows)):
            scored, refused = score_rows(shard, scorer, stage)
            _write_whole(shards / f"{number:06d}.scores.parquet", SCORED_SAMPLE, scored)
            _write_whole(shards / f"{number:06d}.quarantine.parquet", QUARANTINE, refused)
            bar.update(len(shard))
    for name, schema in (("scores", SCORED_SAMPLE), ("quarantine", QUARANTINE)):
        parts = sorted(shards.glob(f"*.{name}.parquet"))
        with pq.ParquetWriter(out / f"{name}.parquet", schema) as merged:
            for part in parts:
                merged.write_table(pq.read_table(part, schema=schema))
                part.unlink()
    shards.rmdir()


def score_rows(
    rows: Sequence[dict[str, Any]], scorer: CorpusScorer, stage: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of SCORED_SAMPLE and of QUARANTINE for the samples ``rows``: each sample is in one of the two."""
    groups: dict[tuple[str, str], tuple[Group, dict[str, int]]] = {}
    places: list[tuple[tuple[str, str], str] | None] = []
    for row in rows:
        messages = row["messages"] or []
        if not messages or messages[-1]["role"] != "assistant":
            places.append(None)
            continue
        context, text = messages[:-1], messages[-1]["content"]
        key = (row["image"], canonical_messages(context))
        _, texts = groups.setdefault(key, (Group(row["image"], context, []), {}))
        texts.setdefault(text, len(texts))
        places.append((key, text))
    whole = [Group(group.image, group.context, list(texts)) for group, texts in groups.values()]
    found = dict(zip(groups, scorer.score_or_reason(whole), strict=True))
    no_answer = Score(None, "no_answer", "the last message is not the assistant's")
    scored, refused = [], []
    for row, place in zip(rows, places, strict=True):
        score = found[place[0]][groups[place[0]][1][place[1]]] if place else no_answer
        if score.value is not None:
            scored.append({"sample_id": row["sample_id"], "score": score.value, "model_version": scorer.version})
        else:
            fault = {"reason": score.reason, "detail": score.detail}
            refused.append({"stage": stage, "sample_id": row["sample_id"], **fault})
    return scored, refused


def _write_whole(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    scratch = path.with_suffix(".scratch")
    write_table(scratch, schema, rows)
    scratch.replace(path)


def _score_metrics(scored: pd.DataFrame) -> Metrics:
    """Mean and spread of the scores by kind, and their rank correlation with the true quality where that is known."""
    metrics: Metrics = {}
    for kind, rows in scored.groupby("kind"):
        metrics[f"mean_score_{kind}s"] = float(rows["score"].mean())
        metrics[f"score_deviation_{kind}s"] = float(rows["score"].std(ddof=0))
        known = rows.dropna(subset=["true_quality"])
        if known["score"].nunique() > 1 and known["true_quality"].nunique() > 1:
            rank_correlation = spearmanr(known["score"], known["true_quality"]).statistic
            metrics[f"rank_correlation_with_truth_{kind}s"] = float(rank_correlation)
    return metrics
