"""The curation curve: its proxy against naive code, its intervals, and the asset on data with inserted faults."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from rsqa_pipeline.benchmarks import curation_curve
from rsqa_pipeline.benchmarks.curation_curve import seed_and_item_band, smallest_sufficient_fraction
from rsqa_pipeline.benchmarks.linear_captioner import PENALTY, Vocabulary, fit_predict, words_right
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import load_profile
from rsqa_pipeline.records import BENCHMARK_ITEM, IMAGE_TEXT_SAMPLE, SCORED_SAMPLE, sample_id, write_table
from rsqa_pipeline.tiny_models.architecture import new_clip, new_clip_image_processor, train_clip_tokenizer
from rsqa_pipeline.tracking.run_logger import SilentLogger


def test_weighted_ridge_is_ridge_on_repeated_rows():
    rng = np.random.default_rng(0)
    images, words = rng.normal(size=(30, 4)), (rng.random((30, 6)) < 0.4).astype(float)
    weights = rng.integers(0, 3, 30).astype(float)
    targets = rng.normal(size=(5, 4))
    found = fit_predict(images, csr_matrix(words), weights, targets)
    rows = np.repeat(np.arange(30), weights.astype(int))
    x = images[rows]
    alpha = PENALTY * x.var(axis=0).mean() * len(x)
    naive = Ridge(alpha=alpha).fit(x, words[rows]).predict(targets)
    np.testing.assert_allclose(found, naive, atol=1e-9)


def test_identical_images_predict_the_mean():
    words = csr_matrix([[1.0, 0], [1, 1]])
    found = fit_predict(np.ones((2, 3)), words, np.array([1.0, 3.0]), np.zeros((1, 3)))
    np.testing.assert_allclose(found, [[1.0, 0.75]])


def test_words_right_by_hand():
    predicted = np.array([[0.9, 0.1, 0.5, 0.4], [0.1, 0.2, 0.3, 0.4]])
    truth = np.array([[True, True, False, False], [False, False, False, True]])
    assert words_right(predicted, truth).tolist() == [0.5, 1.0]


def test_vocabulary_words_occur_in_two_texts():
    vocabulary = Vocabulary(["Two ships.", "two planes", "a farm"])
    assert vocabulary.encode(["TWO two ships", "a farm"]).toarray().tolist() == [[1.0], [0.0]]


def test_band_contains_the_mean_and_both_kinds_of_spread():
    rng = np.random.default_rng(0)
    by_item = np.tile(rng.normal(0.5, 0.1, 100), (3, 1))
    by_seed = by_item + np.array([[-0.2], [0.0], [0.2]])
    narrow, wide = (seed_and_item_band(values, 400, 0) for values in (by_item, by_seed))
    assert narrow.value == pytest.approx(by_item.mean()) and narrow.low < narrow.value < narrow.high
    assert narrow.n == 100
    # items alone: deviation 0.1 / sqrt(100), so about 0.04 wide
    assert 0.03 < narrow.high - narrow.low < 0.05 and wide.high - wide.low > 0.2
    assert seed_and_item_band(by_seed, 400, 0) == wide


def test_smallest_sufficient_fraction():
    rng = np.random.default_rng(1)
    base = rng.random((3, 200))
    levels = {0.1: -0.2, 0.3: -0.001, 0.5: 0.0, 1.0: -0.1}
    noise = {fraction: rng.normal(0, 0.05, (3, 200)) for fraction in levels}
    values = {("score_model", fraction): base + level + noise[fraction] for fraction, level in levels.items()}
    found = smallest_sufficient_fraction(values, "score_model", 500, 0)
    assert found["smallest_fraction"] == 0.3 and found["low"] <= 0 <= found["high"]
    values = {("random", fraction): base + fraction for fraction in (0.1, 1.0)}
    found = smallest_sufficient_fraction(values, "random", 500, 0)
    assert found == {"best_fraction": 1.0, "smallest_fraction": 1.0, "difference": 0, "low": 0, "high": 0}


COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """90 captions that name an image's colour, half of them wrongly; this test's score model knows which."""
    root = tmp_path_factory.mktemp("curve")
    folders = {n: root / n for n in ("image_text_pairs", "pair_scores", "clip_scores", "base_models", "benchmark_sets")}
    rng = np.random.default_rng(0)
    names = list(COLOURS)

    def picture(name: str, colour: str) -> str:
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
        return str(root / f"{name}.png")

    rows, true = [], {}
    for number in range(90):
        wrong = number % 2
        colour, said = names[number % 3], names[(number + wrong) % 3]
        messages = [{"role": "assistant", "content": f"the picture is {said} all over"}]
        key = sample_id(str(number), messages)
        true[key] = 1.0 - wrong
        about = {"task": "caption", "source": "s", "split": "corpus", "image_id": str(number)}
        rows.append({"sample_id": key, "image": picture(str(number), colour), "messages": messages, **about})
    write_table(folders["image_text_pairs"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
    for asset, scores in (("pair_scores", true), ("clip_scores", {key: rng.random() for key in true})):
        table = [{"sample_id": key, "score": score, "model_version": "m"} for key, score in scores.items()]
        write_table(folders[asset] / "scores.parquet", SCORED_SAMPLE, table)
    items = [
        {"item_id": f"r-{n}", "task": "retrieval", "image_id": f"t{n}", "image": picture(f"t{n}", names[n % 3])}
        | {"captions": [f"it is {names[n % 3]}", "a picture"]}
        for n in range(30)
    ]
    write_table(folders["benchmark_sets"] / "items.parquet", BENCHMARK_ITEM, items)
    tokenizer = train_clip_tokenizer(["the picture is red all over"] * 4)
    clip = folders["base_models"] / "clip"
    new_clip(tokenizer, image_size=32, seed=0).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    new_clip_image_processor(32).save_pretrained(clip)
    note = {"path": "clip", "version": weights_version(clip)}
    (folders["base_models"] / "clip.json").write_text(json.dumps(note))
    return folders


@pytest.fixture(scope="module")
def profile(project_root: Path):
    return load_profile(str(project_root / "configs/profiles/demo.yaml"))


def test_curve_separates_correct_captions_from_wrong_ones(inputs, profile, tmp_path):
    metrics = curation_curve.run(inputs, tmp_path, profile, SilentLogger())
    curve = pq.read_table(tmp_path / "curve.parquet").to_pylist()
    config = profile.benchmarks.curve
    assert {(row["ranking"], row["fraction"]) for row in curve} == {
        (ranking, fraction) for ranking in config.rankings for fraction in config.fractions
    }
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 and row["n"] == 30 for row in curve)
    assert {row["captions"] for row in curve if row["fraction"] == 0.3} == {27}
    # the best half are the correct captions; in all data, a wrong colour is as frequent as the right one
    assert metrics["score_model/0.5"] > metrics["random/0.5"] and metrics["score_model/0.5"] > metrics["score_model/1"]
    assert metrics["score_model/1"] == metrics["clip_score/1"] == metrics["random/1"]
    notes = json.loads((tmp_path / "smallest.json").read_text())
    assert notes["rankings"]["score_model"]["smallest_fraction"] <= 0.5
    assert (tmp_path / "plots" / "curation_curve.png").read_bytes()[:4] == b"\x89PNG"
    again = tmp_path / "again"
    again.mkdir()
    assert curation_curve.run(inputs, again, profile, SilentLogger()) == metrics


def test_missing_captioned_test_images_raise_an_error(inputs, profile, tmp_path):
    item = {"item_id": "c-1", "task": "classification", "image_id": "x", "image": "x", "answer": "port"}
    write_table(tmp_path / "items.parquet", BENCHMARK_ITEM, [item])
    with pytest.raises(DataError, match="found 90 and 0"):
        curation_curve.run({**inputs, "benchmark_sets": tmp_path}, tmp_path, profile, SilentLogger())
