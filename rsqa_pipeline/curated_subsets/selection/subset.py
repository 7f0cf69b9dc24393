"""Selects the samples of a subset: a list of ids and the rule that selected them (paper, curation).

Captions and instructions are ranked separately, each with its own fraction: the paper found 30 % best for captions and
60 % for instructions. The true quality of the kept samples is reported if the source knows it; it is never used to
select.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rsqa_pipeline.curated_subsets.corpus import TABLES, Kind, no_samples, read_corpus
from rsqa_pipeline.curated_subsets.plots import plot_kept_by_source
from rsqa_pipeline.curated_subsets.selection.apply_rule import SPREAD, apply_rule, ranking_scores
from rsqa_pipeline.curated_subsets.selection.explain import (
    DROPPED,
    Shares,
    answer_words,
    dropped_rows,
    vanished_groups,
    write_shares,
)
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import SUBSET, Metrics, read_table, write_table
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import folder_version

KINDS: tuple[Kind, ...] = tuple(TABLES.values())
SCORES = {"score_model": "pair_scores", "clip_score": "clip_scores"}
"""Asset with the scores of each selector; the other selectors need no scores."""


def select_ids(samples: pd.DataFrame, rule: SubsetRule, seed: int) -> list[str]:
    """Sorted ids of the samples that ``rule`` keeps, independent of the order of the rows. See `apply_rule`."""
    return sorted(samples.loc[apply_rule(samples, rule, seed)["kept"], "sample_id"])


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, subset: str) -> Metrics:
    """Writes ``ids.parquet``, ``rule.json``, ``explained.parquet`` (rows of DROPPED), ``shares.json`` and
    ``plots/kept_by_source.png`` of one subset."""
    rule: SubsetRule = settings.curated_subsets.subsets[subset]
    samples, versions = _scored_corpus(inputs)
    if "oracle" in rule.selectors and samples["oracle"].isna().all():
        raise DataError(
            f"subset {subset} selects by oracle, the true quality, and the source knows it of no sample; "
            "use another selector"
        )
    decisions = apply_rule(samples, rule, settings.seed)
    samples = samples.assign(kept=decisions["kept"])
    chosen = samples[samples["kept"]].sort_values("sample_id")
    write_table(out / "ids.parquet", SUBSET, chosen[["sample_id", "kind"]])
    description = {
        "subset": subset,
        **rule.model_dump(),
        "model_version": ", ".join(versions[name] for name in versions if name in rule.selectors) or None,
        "corpus_version": {asset: folder_version(inputs[asset]) for asset in TABLES if asset in inputs},
        **_counts(samples, rule),
    }
    (out / "rule.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_table(out / "explained.parquet", DROPPED, dropped_rows(samples, decisions))
    counted = Shares()
    counted.add(samples, decisions["kept"].to_numpy())
    write_shares(out / "shares.json", counted.rows())
    plot_kept_by_source(samples, str(rule.selector), out / "plots" / "kept_by_source.png")
    lost = vanished_groups(counted.rows())
    if lost:
        print(f"WARNING: subset_{subset} keeps nothing of {', '.join(lost)}", file=sys.stderr)
    metrics = {**_metrics(samples, rule), "vanished_groups": float(len(lost))}
    logger.log_params({f"rule.{key}": value for key, value in rule.model_dump().items()})
    logger.log_metrics(metrics)
    return metrics


def _scored_corpus(inputs: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The corpus with one score column per selector (NaN if not scored), and each scoring model's version.

    Raises:
        DataError: no sample of split "corpus", or a table with scores of several models.
    """
    columns = ["sample_id", "kind", "source", "scene_class", "task", "image_id", "true_quality", "words"]
    rows = [{**row, "words": answer_words(row["messages"])} for row in read_corpus(inputs)]
    if not rows:
        raise no_samples(inputs)
    samples = pd.DataFrame(rows)[columns].astype({"true_quality": float})
    versions = {}
    for selector, asset in SCORES.items():
        scores = read_table(inputs[asset] / "scores.parquet")
        found = {row["model_version"] for row in scores}
        if len(found) != 1:
            raise DataError(f"{inputs[asset]}: needs the scores of one model, found {len(found)}: {sorted(found)}")
        versions[selector] = found.pop()
        by_id = {row["sample_id"]: row["score"] for row in scores}
        samples[selector] = samples["sample_id"].map(by_id).astype(float)
        if scores and SPREAD in scores[0]:
            by_id = {row["sample_id"]: row[SPREAD] for row in scores}
            samples[SPREAD] = samples["sample_id"].map(by_id).astype(float)
    return samples.assign(oracle=samples["true_quality"]), versions


def _counts(samples: pd.DataFrame, rule: SubsetRule) -> dict[str, dict[str, int]]:
    """Samples kept, dropped and (among the dropped) without the score that the rule ranks by, each by kind."""
    groups = {"kept": samples["kept"], "dropped": ~samples["kept"], "without_score": _without_score(samples, rule)}
    return {
        name: {kind: int((rows & (samples["kind"] == kind)).sum()) for kind in KINDS} for name, rows in groups.items()
    }


def _without_score(samples: pd.DataFrame, rule: SubsetRule) -> pd.Series:
    scores = ranking_scores(samples, rule)
    return pd.Series(False if scores is None else np.isnan(scores), index=samples.index)


def _metrics(samples: pd.DataFrame, rule: SubsetRule) -> Metrics:
    """Counts, true quality (1..5) of the kept samples, number of samples with known quality, kept share by source."""
    kept = samples[samples["kept"]]
    metrics: Metrics = {
        "corpus_rows": float(len(samples)),
        "kept_rows": float(len(kept)),
        "dropped_rows": float(len(samples) - len(kept)),
        "without_score_rows": float(_without_score(samples, rule).sum()),
    }
    for kind in KINDS:
        of_kind = kept[kept["kind"] == kind]
        known = of_kind["true_quality"].dropna()
        metrics[f"kept_{kind}s"] = float(len(of_kind))
        metrics[f"true_quality_known_{kind}s"] = float(len(known))
        if len(known):
            metrics[f"true_quality_{kind}s"] = float(known.mean())
        by_source = samples[samples["kind"] == kind].groupby("source")["kept"].mean()
        metrics |= {f"kept_share_{kind}s/{source}": float(share) for source, share in by_source.items()}
    return metrics
