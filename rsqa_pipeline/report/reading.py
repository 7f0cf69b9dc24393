"""Reads asset folders for the report: only the columns that the page needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from rsqa_pipeline.compared import LABELS
from rsqa_pipeline.records import read_table

KINDS = {"caption": "image_text_pairs", "instruction": "instruction_samples"}
"""Kind of corpus sample -> the asset that holds it."""

NAMES = LABELS | {
    "random": "random",
    "clip_score": "CLIP score",
    "score_model": "score model",
    "mean_log_probability": "mean log-probability",
    "majority_vote": "majority vote",
    "oracle": "oracle",
    "top_1": "top 1",
    "top_5": "top 5",
    "image_to_text_r1": "image to text R@1",
    "image_to_text_r5": "image to text R@5",
    "image_to_text_r10": "image to text R@10",
    "text_to_image_r1": "text to image R@1",
    "text_to_image_r5": "text to image R@5",
    "text_to_image_r10": "text to image R@10",
    "accuracy_iou_0.5": "IoU ≥ 0.5",
    "lenient_accuracy": "lenient",
    "rural_urban": "rural or urban",
    "choice": "multiple choice",
    "all_tasks": "all tasks",
    "pairs": "above one wrong text",
    "four_way": "above all three",
    "psi": "PSI",
    "ks": "Kolmogorov-Smirnov distance",
    "ks_p_value": "Kolmogorov-Smirnov p-value",
    "kendall_tau": "Kendall's tau",
    "top_30_jaccard": "overlap of the top 30\u00a0% (Jaccard)",
}
"""Names of models, subsets, selectors, tasks and metrics on the page; others keep their own name."""


def name_of(key: str) -> str:
    """Display name of a model, subset, selector, task or metric."""
    return NAMES.get(key, key.replace("_", " "))


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a result table; NaN becomes None."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in read_table(path)
    ]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def corpus(inputs: Mapping[str, Path], subsets: Sequence[str]) -> pd.DataFrame:
    """One row per sample of split "corpus", sorted by sample_id.

    Columns: sample_id, kind, source, true_quality (NaN = not known), score_model and clip_score (NaN = not scored),
    and one bool column per subset.
    """
    parts = []
    for kind, asset in KINDS.items():
        columns = ["sample_id", "source", "split", "true_quality"]
        part = pq.read_table(inputs[asset] / "samples.parquet", columns=columns).to_pandas()
        parts.append(part[part["split"] == "corpus"].assign(kind=kind).drop(columns="split"))
    frame = pd.concat(parts, ignore_index=True).sort_values("sample_id", ignore_index=True)
    for column, asset in (("score_model", "pair_scores"), ("clip_score", "clip_scores")):
        scores = pq.read_table(inputs[asset] / "scores.parquet", columns=["sample_id", "score"]).to_pandas()
        frame[column] = frame["sample_id"].map(scores.set_index("sample_id")["score"])
    for subset in subsets:
        kept = pq.read_table(inputs[f"subset_{subset}"] / "ids.parquet", columns=["sample_id"]).to_pandas()
        frame[subset] = frame["sample_id"].isin(set(kept["sample_id"]))
    return frame


def samples(inputs: Mapping[str, Path], kind: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Complete sample rows by id, with absolute image references; for the few that are shown."""
    path = inputs[KINDS[kind]] / "samples.parquet"
    wanted = set(ids)
    return {row["sample_id"]: row for row in read_table(path) if row["sample_id"] in wanted}
