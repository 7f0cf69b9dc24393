"""Training learns from the pairs, phase by phase and reproducibly; bad pairs are counted, not fatal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.score_model import LastPhase, Lora, ScoreModelPhase, ScoreModelPhases
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder
from rsqa_pipeline.score_model.network.adapters import merge_adapters
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.score_model.training import train
from rsqa_pipeline.score_model.training.losses import bradley_terry
from rsqa_pipeline.score_model.training.pair_batches import PairBatches, training_order
from rsqa_pipeline.score_model.training.ranked_lists import Ranking
from rsqa_pipeline.score_model.training.trainer import schedule
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, pair, write_pairs

Small = Callable[..., Profile]


def phase(inputs: dict[str, Path], out: Path, settings: Profile, name: str) -> dict[str, float]:
    out.mkdir()
    function = getattr(train, f"run_{name}_phase")
    return function(inputs, out, settings, SilentLogger())


@pytest.fixture
def head(tmp_path: Path, base_models: Path, profile: Small) -> Path:
    """The text phase's output, trained on pairs without an image."""
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
    # a model that ignores the image reaches at most 0.5 here
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


def without(settings: Profile, **phases: Any) -> Profile:
    """The settings with phases replaced or, with None, left out."""
    known = {name: getattr(settings.score_model.phases, name) for name in ("text", "caption", "instruction")}
    changed = ScoreModelPhases.model_validate({**known, **phases})
    return settings.model_copy(update={"score_model": settings.score_model.model_copy(update={"phases": changed})})


def test_a_skipped_phase_outputs_the_previous_model(
    tmp_path: Path, head: Path, images: dict[str, str], profile: Small
) -> None:
    rows = colour_pairs(images, "train") + colour_pairs(images, "heldout")
    inputs = {"score_head": head, "caption_preferences": write_pairs(tmp_path / "captions", rows)}
    metrics = phase(inputs, tmp_path / "caption", without(profile(), caption=None), "caption")
    assert metrics["input_rows"] == metrics["kept_rows"] == 12
    weights = "model/model.safetensors"
    assert (tmp_path / "caption" / weights).read_bytes() == (head / weights).read_bytes()
    history = json.loads((tmp_path / "caption" / "history.json").read_text())
    assert [row["step"] for row in history] == [0] and 0 <= history[0]["accuracy"] <= 1


def test_joint_training_learns_from_every_kind_of_pair(
    tmp_path: Path, base_models: Path, images: dict[str, str], profile: Small
) -> None:
    polite = [pair(None, f"yes {n} field", f"no {n}") for n in range(16)]
    colours = write_pairs(tmp_path / "colours", colour_pairs(images, "train"))
    inputs = {"base_models": base_models, "text_preferences": write_pairs(tmp_path / "text", polite)}
    every = profile(epochs=4).score_model.phases.instruction
    assert every is not None
    joint = LastPhase.model_validate({**every.model_dump(), "pairs": ["text", "caption", "instruction"]})
    settings = without(profile(), text=None, caption=None, instruction=joint)
    phase(inputs, tmp_path / "head", settings, "text")
    phase({"score_head": tmp_path / "head", "caption_preferences": colours}, tmp_path / "caption", settings, "caption")
    inputs |= {"caption_score_model": tmp_path / "caption", "instruction_preferences": colours}
    metrics = phase(inputs | {"caption_preferences": colours}, tmp_path / "joint", settings, "instruction")
    assert metrics["input_rows"] == 16 + 12 + 12
    scorer = Scorer.load(tmp_path / "joint" / "model", settings.compute)
    ((yes, no),) = scorer.score([ScoringGroup(None, [], ["yes 3 field", "no 3"])])
    assert yes is not None and no is not None and yes > no


def test_leaving_out_all_phases_is_an_error() -> None:
    with pytest.raises(ValidationError, match="at least one must train"):
        ScoreModelPhases(text=None, caption=None, instruction=None)


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


def test_a_batch_contains_each_text_and_image_once_and_gives_the_plain_loss(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    rows = colour_pairs(images, "train")
    settings = ScoreModelPhase(train=["head"], learning_rate=0.1, batch_size=12)
    data = PairBatches(rows, ChatEncoder(processor, 192), settings, seed=0)
    batch = data.collate(data.micro_batches(0)[0].rankings)
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


def test_training_order_covers_each_epoch_and_keeps_images_together() -> None:
    pairs = [
        Ranking((CandidateRow((1,) * (3 + n % 7), f"image {n // 4}"), CandidateRow((2,), f"image {n // 4}")))
        for n in range(80)
    ]
    order = training_order(pairs, epochs=2.5, batch_size=8, seed=1)
    assert len(order) == 200
    assert sorted(order[:80]) == sorted(order[80:160]) == list(range(80))
    assert order[:80] != order[80:160]
    images = [len({pairs[index].rows[0].image for index in order[at : at + 8]}) for at in range(0, 80, 8)]
    assert max(images) == 2
    assert order == training_order(pairs, 2.5, 8, 1) != training_order(pairs, 2.5, 8, 2)


def test_the_best_weights_are_kept_if_the_last_are_worse(tmp_path: Path, head: Path, profile: Small) -> None:
    """Training pairs contradict the held-out ones, so each step makes held-out accuracy worse."""
    opposite = [pair(None, f"no {n}", f"yes {n} field") for n in range(4)]
    heldout = [pair(None, f"yes {n} field", f"no {n}", "heldout") for n in range(4)]
    inputs = {"score_head": head, "caption_preferences": write_pairs(tmp_path / "pairs", opposite + heldout)}
    kept = {}
    for keep in ("last", "best"):
        settings = profile(epochs=16, keep=keep, train=["head"], learning_rate=3e-3, warmup_steps=12)
        kept[keep] = phase(inputs, tmp_path / keep, settings, "caption")["heldout_accuracy"]
        history = json.loads((tmp_path / keep / "history.json").read_text())
        assert history[-1]["accuracy"] == kept[keep]
    between = [row["accuracy"] for row in history[:-1] if row["accuracy"] is not None]
    assert len(between) == 3 and kept["best"] == max(between) > kept["last"] == 0


def test_adapters_train_the_named_part_and_are_merged(
    tmp_path: Path, head: Path, images: dict[str, str], profile: Small
) -> None:
    rows = [
        pair(i, f"no {n}", f"yes {n} field", s) for n, i in enumerate(images.values()) for s in ("train", "heldout")
    ]
    inputs = {"score_head": head, "caption_preferences": write_pairs(tmp_path / "pairs", rows)}
    settings = profile(epochs=16, train=["language", "head"], lora={"rank": 4, "alpha": 8}, learning_rate=1e-2)
    metrics = phase(inputs, tmp_path / "out", settings, "caption")
    assert metrics["heldout_accuracy"] == 1
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (head, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = {name for name in before if "language_model.layers" in name and "proj.weight" in name}
    assert changed == {"head.weight", *projections}
    for name in projections:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4


def test_a_merged_model_scores_the_same_as_with_adapters(model: ScoreModel, processor: QwenVLProcessor) -> None:
    encoder = ChatEncoder(processor, 192)
    batch = encoder.batch([CandidateRow(encoder.tokens([], text, False), None) for text in ("yes", "a red field")], {})
    plain = model(**batch)
    adapters = model.train_only(["language", "head"], Lora(rank=2, alpha=4), seed=3)
    torch.testing.assert_close(model(**batch), plain)
    for parameter in model.backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = model(**batch)
    merge_adapters(adapters)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    torch.testing.assert_close(model(**batch), adapted, atol=1e-4, rtol=1e-4)


def test_recomputed_activations_give_the_same_gradients(
    model: ScoreModel, processor: QwenVLProcessor, images: dict[str, str]
) -> None:
    encoder = ChatEncoder(processor, 192)
    rows = [CandidateRow(encoder.tokens([], text, True), "red") for text in ("yes", "a red field")]
    batch = encoder.batch(rows, {"red": encoder.pixels(images["red"])})
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.recompute_activations()
        model.train()
        model.zero_grad()
        model(**batch)[0].backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_not_finite_is_a_clear_error(
    tmp_path: Path, head: Path, images: dict[str, str], profile: Small
) -> None:
    file = head / "model" / "model.safetensors"
    save_file({**load_file(file), "head.weight": torch.full((1, 128), torch.nan)}, file)
    inputs = {"score_head": head, "caption_preferences": write_pairs(tmp_path / "p", colour_pairs(images, "train"))}
    with pytest.raises(ModelError, match="caption phase: loss is nan at step 1; lower its learning rate"):
        phase(inputs, tmp_path / "out", profile(), "caption")


def test_the_schedule_by_hand() -> None:
    assert [schedule(step, 6, 2) for step in range(6)] == pytest.approx([0, 0.5, 1, 0.853553, 0.5, 0.146447], abs=1e-5)
