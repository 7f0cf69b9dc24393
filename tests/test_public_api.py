"""The public API: score texts about an image, keep the best part of a scored corpus."""

from __future__ import annotations

import doctest
import importlib.util
import math
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rsqa_pipeline
from rsqa_pipeline.curated_subsets.selection.score_file import curate_scores
from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

TEXTS = ["two white tanks on the left", "a harbour with ships", "green fields seen from above"]


def random_model() -> types.ModuleType:
    """Test files are no packages, so a helper in another folder is loaded by its path."""
    file = Path(__file__).parent / "curated_subsets" / "random_model.py"
    spec = importlib.util.spec_from_file_location("random_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_random_model(folder)
    return rsqa_pipeline.load_scorer(folder, device="cpu")


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_the_import_loads_no_torch():
    code = "import sys, rsqa_pipeline; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reply.stdout.strip() == "set()"


def test_every_public_name_exists_and_is_documented():
    assert set(rsqa_pipeline.__all__) == {"__version__", "curate", "load_scorer", "score"}
    assert rsqa_pipeline.__version__ == version("rsqa-pipeline")
    for name in ("curate", "load_scorer", "score"):
        assert all(
            part in getattr(rsqa_pipeline, name).__doc__ for part in ("Args:", "Returns:", "Raises:", "Examples:")
        )


def test_the_worked_examples_hold():
    found = doctest.testmod(rsqa_pipeline)
    assert found.attempted > 0 and found.failed == 0


def test_texts_of_one_image_are_scored_in_one_pass(scorer, image, monkeypatch):
    passes = []
    forward = scorer._forward
    monkeypatch.setattr(scorer, "_forward", lambda tensors: passes.append(1) or forward(tensors))
    together = rsqa_pipeline.score(scorer, image, TEXTS)
    assert len(passes) == 1
    assert len(set(together)) == 3 and all(math.isfinite(value) for value in together)
    alone = [rsqa_pipeline.score(scorer, str(image), [text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=1e-4)


def test_an_image_that_cannot_be_read_has_no_scores(scorer, tmp_path):
    assert rsqa_pipeline.score(scorer, tmp_path / "none.png", TEXTS) == [None, None, None]
    (tmp_path / "empty.png").touch()
    assert rsqa_pipeline.score(scorer, tmp_path / "empty.png", TEXTS[:1]) == [None]


def test_no_texts_have_no_scores_and_a_single_string_is_refused(scorer, image):
    assert rsqa_pipeline.score(scorer, image, []) == []
    with pytest.raises(TypeError, match="single string"):
        rsqa_pipeline.score(scorer, image, "a harbour")


def test_a_scorer_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="auto, cpu or cuda, found 'tpu'"):
        rsqa_pipeline.load_scorer(tmp_path, device="tpu")
    with pytest.raises(ModelError):
        rsqa_pipeline.load_scorer(tmp_path / "none")


def scored(rows: int = 20) -> pd.DataFrame:
    scores = np.random.default_rng(1).normal(size=rows)
    scores[3] = np.nan
    scores[5] = scores[6]
    return pd.DataFrame({"key": [f"r{number}" for number in range(rows)], "score": scores.astype(np.float32)})


def test_the_same_rows_are_kept_as_by_the_command(tmp_path):
    table = scored()
    table.to_parquet(tmp_path / "scores.parquet")
    rows = rsqa_pipeline.curate(tmp_path / "scores.parquet", keep=0.3)
    assert rows["key"].tolist() == table["key"].tolist()
    assert rows["kept"].sum() == 6 and set(rows["reason"].dropna()) == {"outside_top", "no_score"}
    rule = SubsetRule(selector="score_model", caption_fraction=0.3, instruction_fraction=0.3)
    curate_scores(tmp_path / "scores.parquet", rule, 0, tmp_path / "out")
    ids = pd.read_parquet(tmp_path / "out" / "ids.parquet")["key"].tolist()
    assert rows.loc[rows["kept"], "key"].tolist() == ids


def test_parquet_csv_and_a_data_frame_give_the_same_table(tmp_path):
    table = scored().set_index(np.arange(20)[::-1])
    table.to_parquet(tmp_path / "scores.parquet")
    table.to_csv(tmp_path / "scores.csv", index=False)
    rows = rsqa_pipeline.curate(table, keep=0.25)
    pd.testing.assert_frame_equal(rsqa_pipeline.curate(str(tmp_path / "scores.parquet"), keep=0.25), rows)
    pd.testing.assert_frame_equal(rsqa_pipeline.curate(tmp_path / "scores.csv", keep=0.25), rows)
    assert list(rows) == ["key", "kept", "rank", "percentile", "rule", "reason"]
    assert rows.loc[rows["rank"] == 1, "kept"].all()


def test_missing_scores_in_any_column_type():
    for values in ([1.0, None, 2.0], pd.array([1.0, None, 2.0], dtype="Float32")):
        rows = rsqa_pipeline.curate(pd.DataFrame({"key": [7, 8, 9], "score": values}), keep=0.3)
        assert rows["key"].tolist() == ["7", "8", "9"]
        assert [reason or "kept" for reason in rows["reason"]] == ["outside_top", "no_score", "kept"]


def test_captions_and_instructions_are_kept_apart():
    kinds = ["caption", "caption", "instruction", "instruction"]
    table = pd.DataFrame({"sample_id": list("abcd"), "kind": kinds, "score": [4, 3, 2, 1]})
    rows = rsqa_pipeline.curate(table, keep=0.5)
    assert rows.loc[rows["kept"], "key"].tolist() == ["a", "c"]


def test_a_rule_in_place_of_a_fraction():
    rule = {"selector": "random", "caption_fraction": 0.5, "instruction_fraction": 0.5}
    first, again, other = (rsqa_pipeline.curate(scored(), keep=rule, seed=seed)["kept"].tolist() for seed in (0, 0, 1))
    assert first == again != other and sum(first) == 10
    with pytest.raises(DataError, match="keep is not a rule: selector"):
        rsqa_pipeline.curate(scored(), keep={"selector": "best"})
    parts = {"any_of": [{"all_of": [{"selector": "score_model", "caption_fraction": 0.5}]}]}
    with pytest.raises(DataError, match="no column kind"):
        rsqa_pipeline.curate(scored(), keep=parts)
    with pytest.raises(DataError, match="no column kind"):
        rsqa_pipeline.curate(scored(), keep={"selector": "score_model", "caption_fraction": 0.5})


@pytest.mark.parametrize("keep", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range(keep):
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        rsqa_pipeline.curate(scored(), keep=keep)


def test_scores_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no score file"):
        rsqa_pipeline.curate(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no score file"):
        rsqa_pipeline.curate(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="column key or sample_id; found score"):
        rsqa_pipeline.curate(scored()[["score"]])
    with pytest.raises(DataError, match="needs column 'score_model'"):
        rsqa_pipeline.curate(scored()[["key"]])
    with pytest.raises(DataError, match="must contain numbers"):
        rsqa_pipeline.curate(pd.DataFrame({"key": ["a"], "score": ["good"]}))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="is not a CSV file"):
        rsqa_pipeline.curate(tmp_path / "empty.csv")
