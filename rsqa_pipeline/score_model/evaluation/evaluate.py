"""How far to trust the scores: held-out accuracy, calibration, length and probes, beside CLIP score and chance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import base_model
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.score_model.evaluation import evaluation_plots
from rsqa_pipeline.score_model.evaluation.accuracy import (
    ALL,
    AccuracyRow,
    accuracy_rows,
    difference_rows,
    judge_against_truth,
)
from rsqa_pipeline.score_model.evaluation.calibration import Calibration, calibration, length_bias
from rsqa_pipeline.score_model.evaluation.doubt import write_doubt
from rsqa_pipeline.score_model.evaluation.probes import run_probes, self_preference
from rsqa_pipeline.score_model.pairs import Pair, ScoredPair, read_pairs, score_pairs, score_pairs_in_full
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.statistics import Interval
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Asset ``score_model_report``: accuracy, its difference to CLIP score, calibration, intervals of the mark,
    dependence on length, probes, plots."""
    # a profile with captions alone has no instruction pairs
    folders = [inputs[name] for name in ("caption_preferences", "instruction_preferences") if name in inputs]
    pairs: list[Pair] = [pair for folder in folders for pair in read_pairs(folder, "heldout")]
    if not pairs:
        raise DataError("no held-out pair to measure on; raise preference_data.heldout_share or the number of images")
    resamples = settings.benchmarks.bootstrap_resamples
    model = Scorer.load(inputs["score_model"] / "model", settings.compute)
    clip = ClipScorer.load(base_model(inputs["base_models"], "clip"), settings.compute, settings.benchmarks.batch_size)
    in_full = score_pairs_in_full(model, pairs)
    scored = {"score_model": [(a.value, b.value) for a, b in in_full], "clip_score": score_pairs(clip, pairs)}
    rows = accuracy_rows(pairs, scored)
    differences = difference_rows(pairs, scored, resamples, settings.seed)
    gaps = [_gap(pair) for pair in scored["score_model"]]
    reliability = calibration([gap for gap in gaps if gap is not None])
    lengths = length_bias(pairs, gaps)
    ceiling = judge_against_truth(pairs)
    _write(out / "accuracy.json", [asdict(row) for row in rows])
    _write(out / "difference.json", differences)
    trust = {
        "calibration": asdict(reliability),
        "length_bias": lengths,
        "judge_agrees_with_truth": asdict(ceiling) if ceiling else None,
    }
    _write(out / "calibration.json", trust)
    probed = run_probes(model, pairs)
    _write(out / "probes.json", [asdict(probe) for probe in probed])
    _write(out / "self_preference.json", self_preference(pairs, gaps))
    train = [pair for folder in folders for pair in read_pairs(folder, "train")]
    doubt = write_doubt(out, model, pairs, in_full, train, resamples, settings.seed)
    unscored = _quarantine(out, pairs, scored["score_model"])
    evaluation_plots.accuracy_bars(rows, out / "plots" / "accuracy.png")
    evaluation_plots.reliability(reliability, out / "plots" / "calibration.png")
    evaluation_plots.probe_bars(probed, out / "plots" / "probes.png")
    evaluation_plots.gap_against_length(pairs, gaps, out / "plots" / "length_bias.png")
    counts = {"input_rows": len(pairs), "kept_rows": len(pairs) - unscored, "quarantined_rows": unscored}
    falls: Metrics = {f"probe.{p.probe}.{key}": getattr(p, key) for p in probed for key in ("value", "low")}
    return counts | falls | doubt | _metrics(rows, differences, reliability, lengths, ceiling)


def _gap(scored: ScoredPair) -> float | None:
    chosen, rejected = scored
    return None if chosen is None or rejected is None else chosen - rejected


def _quarantine(out: Path, pairs: Sequence[Pair], scored: Sequence[ScoredPair]) -> int:
    quarantine = Quarantine("score_model_report")
    for pair, scores in zip(pairs, scored, strict=True):
        if None in scores:
            quarantine.add(pair["pair_id"], "not_scored", "no score for the chosen or the rejected text")
    quarantine.write(out)
    return len(quarantine.rows)


def _metrics(
    rows: Sequence[AccuracyRow],
    differences: Sequence[Mapping[str, Any]],
    reliability: Calibration,
    lengths: Mapping[str, float | None],
    ceiling: Interval | None,
) -> Metrics:
    metrics: Metrics = {
        f"accuracy.{row.selector}.{row.family}.{row.label}": row.value for row in rows if row.selector != "random"
    }
    for row in differences:
        if row["family"] == ALL:
            metrics |= {f"difference.{row['label']}.{key}": row[key] for key in ("value", "low", "high")}
    if reliability.ece is not None:
        metrics["expected_calibration_error"] = reliability.ece
    metrics |= {f"length_bias.{key}": value for key, value in lengths.items() if value is not None}
    if ceiling is not None:
        metrics["judge_agrees_with_truth"] = ceiling.value
    return metrics


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
