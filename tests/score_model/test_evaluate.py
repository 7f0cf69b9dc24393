"""Accuracy, its difference, calibration and length bias by hand, and the asset on tiny models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.evaluation import evaluate
from rsqa_pipeline.score_model.evaluation.accuracy import accuracy_rows, difference_rows
from rsqa_pipeline.score_model.evaluation.calibration import calibration, length_bias
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.pairs import agrees
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, pair, write_pairs

PAIRS = [
    pair("1", "a", "b"),
    pair("2", "a", "b", true_margin=-1.0),  # the judge was wrong
    pair("3", "a", "b", true_margin=0.0),  # equally good in truth
    pair("4", "a", "b", family="close_ended", true_margin=None),
]
SCORED = {
    "score_model": [(2.0, 1.0), (0.0, 1.0), (1.0, 1.0), (3.0, None)],
    "clip_score": [(0.1, 0.2), (0.2, 0.1), (0.3, 0.1), (0.2, 0.1)],
}


def test_a_tie_is_wrong_and_a_missing_score_has_no_verdict() -> None:
    assert agrees((1.0, 1.0)) is False
    assert agrees((1.0, None)) is None
    assert agrees((2.0, 1.0), margin=-0.5) is False
    assert agrees((2.0, 1.0), margin=0.0) is None


def test_accuracy_by_hand() -> None:
    found = {(row.selector, row.family, row.label): (row.value, row.n) for row in accuracy_rows(PAIRS, SCORED)}
    assert found["score_model", "all", "judge"] == (pytest.approx(1 / 3), 3)
    assert found["clip_score", "all", "judge"] == (pytest.approx(3 / 4), 4)
    assert found["score_model", "all", "truth"] == (1.0, 2)
    assert found["clip_score", "all", "truth"] == (0.0, 2)
    assert found["clip_score", "close_ended", "judge"] == (1.0, 1)
    assert found["random", "all", "judge"] == (0.5, 4)
    assert ("score_model", "close_ended", "judge") not in found
    assert ("random", "close_ended", "truth") not in found


def test_the_difference_is_over_pairs_that_both_scored() -> None:
    rows = {(r["family"], r["label"]): r for r in difference_rows(PAIRS, SCORED, 200, seed=0)}
    judged, true = rows["all", "judge"], rows["all", "truth"]
    assert judged["n"] == 3 and judged["value"] == pytest.approx(-1 / 3)
    assert true["n"] == 2 and (true["value"], true["low"], true["high"]) == (1.0, 1.0, 1.0)


def test_calibration_by_hand() -> None:
    gap = math.log(0.8 / 0.2)  # confidence 0.8
    found = calibration([gap] * 6 + [-gap] * 4 + [0.0])
    assert [(b.n, pytest.approx(b.accuracy), pytest.approx(b.confidence)) for b in found.bins] == [
        (1, 0.0, 0.5),
        (10, 0.6, 0.8),
    ]
    assert found.ece == pytest.approx((1 * 0.5 + 10 * 0.2) / 11)
    assert calibration([]).ece is None
    assert calibration([1000.0, -1000.0]).bins[0].n == 2


def test_length_bias_by_hand() -> None:
    pairs = [pair("1", "a" * n, "b", true_margin=float(-n)) for n in (1, 2, 3, 4)]
    assert length_bias(pairs, [1.0, 2.0, 3.0, 9.0]) == {"score": pytest.approx(1), "truth": pytest.approx(-1)}
    assert length_bias(pairs, [1.0, 1.0, 1.0, None])["score"] is None


def test_the_asset_writes_its_files(
    tmp_path: Path,
    model: ScoreModel,
    processor: QwenVLProcessor,
    base_models: Path,
    images: dict[str, str],
    profile: Callable[..., Profile],
) -> None:
    model.save_pretrained(tmp_path / "score_model" / "model")
    processor.save_pretrained(tmp_path / "score_model" / "model")
    question = [{"role": "user", "content": "Is the field red or blue?"}]
    asked = [
        pair(images["red"], "red", "blue", "heldout", context=question, family="close_ended"),
        pair(str(tmp_path / "none.png"), "red", "blue", "heldout", context=question, family="close_ended"),
        pair(images["red"], "red", "no", "train", context=question, family="close_ended"),
    ]
    inputs = {
        "score_model": tmp_path / "score_model",
        "caption_preferences": write_pairs(tmp_path / "captions", colour_pairs(images, "heldout")),
        "instruction_preferences": write_pairs(tmp_path / "instructions", asked),
        "base_models": base_models,
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        metrics = evaluate.run(inputs, tmp_path / name, profile(), SilentLogger())
    assert (metrics["input_rows"], metrics["kept_rows"], metrics["quarantined_rows"]) == (14, 13, 1)
    rows = json.loads((tmp_path / "a" / "accuracy.json").read_text())
    assert {row["selector"] for row in rows} == {"score_model", "clip_score", "random"}
    assert {row["family"] for row in rows} == {"all", "caption", "close_ended"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    trust = json.loads((tmp_path / "a" / "calibration.json").read_text())
    assert trust["judge_agrees_with_truth"]["value"] == 1.0
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert Path("plots/accuracy.png") in files and Path("plots/calibration.png") in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_no_heldout_pair_is_a_clear_error(tmp_path: Path, profile: Callable[..., Profile]) -> None:
    inputs = {
        name: write_pairs(tmp_path / name, [pair("1", "a", "b")])
        for name in ("caption_preferences", "instruction_preferences")
    }
    with pytest.raises(DataError, match="held-out"):
        evaluate.run(inputs, tmp_path, profile(), SilentLogger())
