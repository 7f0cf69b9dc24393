"""Training learns what the pairs say, by phase, the same way each time; bad pairs are counted, not fatal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model import train
from rsqa_pipeline.score_model.inputs import Encoder, Row
from rsqa_pipeline.score_model.losses import bradley_terry
from rsqa_pipeline.score_model.model import ScoreModel
from rsqa_pipeline.score_model.ranked_lists import Ranking
from rsqa_pipeline.score_model.training_data import PairData, training_order
from rsqa_pipeline.score_model_settings import ScoreModelPhase
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, pair, write_pairs

Small = Callable[..., Profile]


def phase(inputs: dict[str, Path], out: Path, settings: Profile, name: str) -> dict[str, float]:
    out.mkdir()
    function = getattr(train, f"run_{name}_phase")
    return function(inputs, out, settings, SilentLogger())


@pytest.fixture
def head(tmp_path: Path, base_models: Path, profile: Small) -> Path:
    """The text phase's output, after polite pairs without image."""
    rows = [pair(None, f"yes {n} field", f"no {n}", "heldout" if n % 5 == 4 else "train") for n in range(16)]
    inputs = {"base_models": base_models, "text_preferences": write_pairs(tmp_path / "text", rows)}
    metrics = phase(inputs, tmp_path / "head", profile(epochs=4), "text")
    assert metrics["input_rows"] == metrics["kept_rows"] == 16 and metrics["heldout_accuracy"] == 1.0
    return tmp_path / "head"


def test_three_phases_learn_and_train_only_their_parts(
    tmp_path: Path, base_models: Path, head: Path, images: dict[str, str], profile: Small
) -> None:
    rows = colour_pairs(images, "train") + colour_pairs(images, "heldout")
    captions = write_pairs(tmp_path / "captions", rows)
    inputs = {"score_head": head, "caption_preferences": captions}
    metrics = phase(inputs, tmp_path / "caption", profile(epochs=10), "caption")
    # 0.5 is the best that a model blind to the image can do here
    assert metrics["heldout_accuracy"] > 0.6 and metrics["train_loss"] < 0.693 and metrics["truncated_texts"] == 0
    inputs = {
        "caption_score_model": tmp_path / "caption",
        "instruction_preferences": captions,
        "caption_preferences": captions,
    }
    phase(inputs, tmp_path / "instruction", profile(epochs=2), "instruction")
    before, middle, after = (
        load_file(folder / "model" / "model.safetensors")
        for folder in (head, tmp_path / "caption", tmp_path / "instruction")
    )
    for first, second, frozen in ((before, middle, "language_model"), (middle, after, "visual")):
        same = {name for name in first if torch.equal(first[name], second[name])}
        assert same == {name for name in first if frozen in name}
    history = json.loads((tmp_path / "caption" / "history.json").read_text())
    assert set(history[0]) == {"step", "loss", "accuracy", "learning_rate"}
    assert history[-1]["accuracy"] == metrics["heldout_accuracy"]
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert (tmp_path / "caption" / "plots" / "training.png").stat().st_size > 5_000
    assert not Path(".rsqa/demo/score_model/caption").exists()


def test_the_same_seed_gives_the_same_files(tmp_path: Path, head: Path, images: dict[str, str], profile: Small) -> None:
    inputs = {
        "score_head": head,
        "caption_preferences": write_pairs(tmp_path / "pairs", colour_pairs(images, "train")),
    }
    for name in ("a", "b"):
        phase(inputs, tmp_path / name, profile(epochs=1), "caption")
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_pairs_with_a_bad_image_are_quarantined(
    tmp_path: Path, head: Path, images: dict[str, str], profile: Small
) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    bad = [pair(str(tmp_path / "bad.png"), "a", "b"), pair(str(tmp_path / "none.png"), "a", "b", "heldout")]
    pairs = write_pairs(tmp_path / "pairs", bad + colour_pairs(images, "train"))
    inputs = {"score_head": head, "caption_preferences": pairs}
    metrics = phase(inputs, tmp_path / "out", profile(epochs=1), "caption")
    assert (metrics["input_rows"], metrics["kept_rows"], metrics["quarantined_rows"]) == (14, 12, 2)
    assert "heldout_accuracy" not in metrics
    quarantine = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [row["reason"] for row in quarantine] == ["zero_bytes", "not_scored"]


def test_no_usable_pair_is_a_clear_error(tmp_path: Path, head: Path, profile: Small) -> None:
    pairs = write_pairs(tmp_path / "pairs", [pair(str(tmp_path / "none.png"), "a", "b")])
    with pytest.raises(DataError, match="1 read, 1 with a fault"):
        phase({"score_head": head, "caption_preferences": pairs}, tmp_path / "out", profile(), "caption")


def test_a_batch_holds_each_text_and_image_once_and_gives_the_plain_loss(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    rows = colour_pairs(images, "train")
    settings = ScoreModelPhase(train=["head"], learning_rate=0.1, batch_size=12)
    data = PairData(rows, Encoder(processor, 192), settings, seed=0)
    batch = data.collate(data.passes(0)[0].rankings)
    pairs, _, _ = (batch.pop(name) for name in ("ranked", "counts", "mark_gaps"))
    assert len(batch["image_grid_thw"]) == 4 and len(batch["ends"]) == 16 and len(pairs) == 12
    with torch.no_grad():
        scores = model(**batch)
        shared = bradley_terry(scores[pairs[:, 0]], scores[pairs[:, 1]])
        plain = []
        for learned in data.rankings:
            single = data.collate([learned])
            for name in ("ranked", "counts", "mark_gaps"):
                single.pop(name)
            plain.append(bradley_terry(*model(**single).split(1)))
    assert shared.item() == pytest.approx(torch.stack(plain).mean().item(), abs=1e-5)


def test_training_order_covers_each_epoch_whole_with_images_together() -> None:
    pairs = [Ranking((Row((1,) * (3 + n % 7), f"image {n // 4}"), Row((2,), f"image {n // 4}"))) for n in range(80)]
    order = training_order(pairs, epochs=2.5, batch_size=8, seed=1)
    assert len(order) == 200
    assert sorted(order[:80]) == sorted(order[80:160]) == list(range(80))
    assert order[:80] != order[80:160]
    images = [len({pairs[index].rows[0].image for index in order[at : at + 8]}) for at in range(0, 80, 8)]
    assert max(images) == 2
    assert order == training_order(pairs, 2.5, 8, 1) != training_order(pairs, 2.5, 8, 2)
