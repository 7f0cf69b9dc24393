"""Drift figures by hand, the command on files, and the asset on real score models."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau, ks_2samp
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets import drift
from rsqa_pipeline.curated_subsets.drift import compare_scores, psi, read_scores, top_overlap
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, SCORED_SAMPLE, sample_id, write_table
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from rsqa_pipeline.tracking.run_logger import SilentLogger


def test_psi_by_hand():
    """Deciles of 0..9 make ten bins of one sample each; all twenty new scores fall into the last bin."""
    old, new = np.arange(10.0), np.full(20, 99.0)
    p, last, other = 1.5 / 15, 20.5 / 25, 0.5 / 25
    expected = (last - p) * math.log(last / p) + 9 * (other - p) * math.log(other / p)
    assert psi(old, new) == pytest.approx(expected)
    assert psi(old, old) == 0


def test_psi_of_equal_scores_is_finite():
    assert psi(np.zeros(5), np.zeros(7)) == pytest.approx(0, abs=0.05)
    assert math.isfinite(psi(np.zeros(5), np.ones(5))) and psi(np.zeros(50), np.ones(50)) > 1


def test_overlap_of_the_best_by_hand():
    old = pd.Series({"a": 5.0, "b": 4, "c": 3, "d": 2, "e": 1})
    new = pd.Series({"a": 1.0, "b": 4, "c": 3, "d": 5, "e": 2})
    assert top_overlap(old, new, 0.4) == 1 / 3  # {a, b} and {d, b}
    tied = pd.Series(1.0, index=list("edcba"))
    assert top_overlap(old, tied, 0.4) == 1.0  # equal scores are ordered by id


def test_ranks_are_compared_by_id_and_distributions_over_all_scores():
    rng = np.random.default_rng(0)
    old = pd.Series(rng.normal(size=60), index=[f"k{n}" for n in range(60)])
    new = pd.Series(rng.normal(1, 1, size=80), index=[f"k{n}" for n in range(99, 19, -1)])
    found = compare_scores(old, new)
    both = [f"k{n}" for n in range(20, 60)]
    assert (found.old_samples, found.new_samples, found.common_samples) == (60, 80, 40)
    assert found.kendall_tau == pytest.approx(kendalltau(old[both], new[both]).statistic)
    assert found.ks == ks_2samp(old, new).statistic and found.ks_p_value < 0.05
    apart = compare_scores(old, new.drop(both))
    assert apart.kendall_tau is None and apart.top_30_jaccard is None and apart.common_samples == 0
    with pytest.raises(DataError, match="60 old and 0 new"):
        compare_scores(old, new[:0])


def test_command_compares_two_files(tmp_path: Path):
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    scores: list[list[float | None]] = [[1.0, 2, 3, None], [1.0, 2, 3, 4]]
    for path, values in zip(paths, scores, strict=True):
        pq.write_table(pa.table({"key": list("abcd"), "score": pa.array(values, pa.float32())}), path)
    assert read_scores(paths[0]).to_dict() == {"a": 1, "b": 2, "c": 3}
    reply = CliRunner().invoke(app, ["drift", *map(str, paths), "--out", str(tmp_path / "drift")])
    assert reply.exit_code == 0, reply.output
    found = json.loads((tmp_path / "drift" / "drift.json").read_text())
    assert found["common_samples"] == 3 and found["kendall_tau"] == 1 and found["top_30_jaccard"] == 1
    assert "kendall tau" in reply.output and (tmp_path / "drift" / "drift.png").read_bytes()[:4] == b"\x89PNG"


def test_asset_compares_both_models_on_the_same_captions(tmp_path: Path, project_root: Path):
    """The "final" scores are the caption phase's scores plus one: the distribution shifts, the ranks stay the same."""
    model = ScoreModel.from_base(str(CHECKPOINTS / "vlm"))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    processor = load_processor(CHECKPOINTS / "vlm")
    processor.tokenizer.model_max_length = 160
    inputs = {name: tmp_path / name for name in ("pair_scores", "caption_score_model", "image_text_pairs")}
    model.save_pretrained(inputs["caption_score_model"] / "model")
    processor.save_pretrained(inputs["caption_score_model"] / "model")
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    rows = []
    for number in range(40):
        messages = [{"role": "assistant", "content": f"{number} ships"}]
        about = {"image_id": "i", "image": str(tmp_path / "a.png"), "task": "caption", "source": "s", "split": "corpus"}
        rows.append({"sample_id": sample_id("i", messages), "messages": messages, **about})
    write_table(inputs["image_text_pairs"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
    settings = load_profile(str(project_root / "configs/profiles/demo.yaml"))
    scorer = drift.Scorer.load(inputs["caption_score_model"] / "model", settings.compute)
    scored = scorer.score([ScoringGroup(row["image"], [], [row["messages"][0]["content"]]) for row in rows[:35]])
    moved = [
        {"sample_id": row["sample_id"], "score": score + 1, "model_version": "final"}
        for row, (score,) in zip(rows, scored, strict=False)
        if score is not None
    ]
    write_table(inputs["pair_scores"] / "scores.parquet", SCORED_SAMPLE, moved)
    out = tmp_path / "score_drift"
    out.mkdir()
    metrics = drift.run(inputs, out, settings, SilentLogger())
    assert metrics["common_samples"] == 35  # those that the final model has scored
    assert metrics["kendall_tau"] == pytest.approx(1) and metrics["top_30_jaccard"] == 1
    assert metrics["psi"] > 0.25 or metrics["ks"] > 0.1
    assert json.loads((out / "drift.json").read_text())["psi"] == metrics["psi"]
    assert (out / "plots" / "drift.png").is_file()
