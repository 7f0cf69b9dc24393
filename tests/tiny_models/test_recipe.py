from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.conversation import encode
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Message
from rsqa_pipeline.scenes.truth import PRETRAIN_SEEDS, sample_scene
from rsqa_pipeline.tiny_models import training
from rsqa_pipeline.tiny_models.architecture import new_vlm, train_vlm_processor
from rsqa_pipeline.tiny_models.contrastive import contrastive_loss
from rsqa_pipeline.tiny_models.language import MATCHING_WEIGHT, Answered, Matched, Matching, language_loss
from rsqa_pipeline.tiny_models.perception import Heads, vlm_tower
from rsqa_pipeline.tiny_models.pixels import augmented, normalized, patches
from rsqa_pipeline.tiny_models.recipe import Schedule, TrainedVlm, make_clip, make_vlm, name_words, standardize
from rsqa_pipeline.tiny_models.scene_material import SceneMaterial, perception_labels
from rsqa_pipeline.tiny_models.training import Phase, train
from rsqa_pipeline.tracking.run_logger import SilentLogger

TINY = Schedule(
    vlm_perception_steps=4,
    clip_perception_steps=2,
    vlm_steps=4,
    vlm_harder_steps=(2, 1),
    clip_steps=2,
    batch_size=4,
    language_batch_size=2,
    seed=5,
)


class KilledError(Exception):
    pass


class KillAt(SilentLogger):
    """Stops a run the way a kill does: between two steps, without warning."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step

    def log_metrics(self, metrics: object, step: int | None = None) -> None:
        if step == self.step and self.name in str(metrics):
            raise KilledError


def _weights(made: TrainedVlm) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in made.model.state_dict().items()}


@pytest.fixture(scope="module")
def uninterrupted(scenes: SceneMaterial) -> dict[str, torch.Tensor]:
    return _weights(make_vlm(scenes, TINY, Compute(device="cpu"), None, SilentLogger()))


@pytest.mark.parametrize(("phase", "step"), [("vlm_perception", 3), ("vlm_language", 3)])
def test_a_resumed_run_ends_with_the_same_weights(
    scenes: SceneMaterial,
    uninterrupted: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    step: int,
) -> None:
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    compute = Compute(device="cpu")
    with pytest.raises(KilledError):
        make_vlm(scenes, TINY, compute, tmp_path, KillAt(phase, step))
    resumed = _weights(make_vlm(scenes, TINY, compute, tmp_path, SilentLogger()))
    assert all(torch.equal(weight, resumed[name]) for name, weight in uninterrupted.items())


def test_the_language_phase_leaves_the_tower_unchanged(
    scenes: SceneMaterial, uninterrupted: dict[str, torch.Tensor], cpu: Compute
) -> None:
    perception_only = Schedule(**{**vars(TINY), "vlm_steps": 0})
    before = _weights(make_vlm(scenes, perception_only, cpu, None, SilentLogger()))
    visual = [name for name in before if "visual" in name]
    assert visual and all(torch.equal(before[name], uninterrupted[name]) for name in visual)
    assert not all(torch.equal(before[name], uninterrupted[name]) for name in before)


def test_clip_recipe_trains(scenes: SceneMaterial, cpu: Compute, tmp_path: Path) -> None:
    made = make_clip(scenes, TINY, cpu, tmp_path / "state", SilentLogger())
    made.save(tmp_path / "clip")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in (tmp_path / "clip").iterdir()}


def test_a_nan_loss_stops_the_run(cpu: Compute) -> None:
    layer = torch.nn.Linear(1, 1)
    phase = Phase("broken", 3, 1, 1e-3, seed=0)
    with pytest.raises(ModelError, match="broken: loss is nan at step 0"):
        train(phase, [layer], lambda rng: layer.weight.sum() * float("nan"), cpu, None, SilentLogger())


def _model_loss(model: Any, processor: QwenVLProcessor, chat: list[Message], picture: Image.Image) -> torch.Tensor:
    batch = encode(processor, [chat], [picture], 200)
    asked = encode(processor, [chat[:1]], [picture], 200, add_generation_prompt=True)["input_ids"].shape[1]
    labels = batch["input_ids"].clone()
    labels[:, :asked] = -100
    labels[:, -1] = -100  # the template's line break after the end token is never generated
    loss: torch.Tensor = model(**batch, labels=labels).loss
    return loss


@torch.no_grad()
def test_language_loss_equals_the_models_own_loss(scenes: SceneMaterial) -> None:
    """Texts of an image share a sequence; each has the loss that it has in a separate sequence."""
    processor = train_vlm_processor(scenes.texts(), 64)
    model = new_vlm(processor, seed=0).eval()
    matching = Matching(["colour"])
    torch.nn.init.normal_(matching.weight)
    images, _ = scenes.perception_batch(np.random.default_rng(0), 2)
    texts = [
        Answered(0, "how many?", "2"),
        Answered(1, "describe this image.", "two white tanks. " * 30),
        Matched(0, "a", "b", "colour"),
        Answered(0, "a", "b"),
        Matched(1, "what is it?", "a tank", None),
    ]
    answer_losses, matched = [], []
    for text in texts:
        chat = [Message(role="user", content=text.question), Message(role="assistant", content=text.answer)]
        picture = Image.fromarray(images[text.image])
        if isinstance(text, Answered):
            answer_losses.append(_model_loss(model, processor, chat, picture))
        else:
            states = model.model(**encode(processor, [chat], [picture], 200)).last_hidden_state
            label = torch.tensor([0 if text.fault is None else 1])
            matched.append(torch.nn.functional.cross_entropy(matching(states[:, -1]), label))
    expected = torch.stack(answer_losses).mean() + MATCHING_WEIGHT * torch.stack(matched).mean()
    torch.testing.assert_close(language_loss(model, processor, matching, images, texts), expected)


@torch.no_grad()
def test_standardized_tokens_have_unit_size_and_the_same_predictions(scenes: SceneMaterial) -> None:
    processor = train_vlm_processor(scenes.texts(), 64)
    model, heads = new_vlm(processor, seed=0), Heads(scenes.vlm_targets, seed=0)
    images, _ = scenes.perception_batch(np.random.default_rng(0), 8)
    before = heads(vlm_tower(model)(images))
    standardize(model, heads, scenes, TINY)
    tokens = vlm_tower(model)(images)
    assert tokens.std().item() == pytest.approx(1, abs=0.2)
    for name, logits in heads(tokens).items():
        torch.testing.assert_close(logits, before[name], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_named_word_finds_the_image_token_of_what_it_names(scenes: SceneMaterial) -> None:
    processor = train_vlm_processor(scenes.texts(), 64)
    model, heads = new_vlm(processor, seed=0), Heads(scenes.vlm_targets, seed=0)
    name_words(model, processor, heads, {"cell_colour": {"red": [1], "blue": [2]}})
    vectors = model.get_input_embeddings().weight
    red, blue = (vectors[processor.tokenizer(word)["input_ids"][0]] for word in (" red", " blue"))
    token = heads.layer("cell_colour").weight[1]  # what a red cell's token points to
    assert token @ red > 0 > token @ blue


def test_fast_pixels_equal_the_processors_output(scenes: SceneMaterial) -> None:
    processor = train_vlm_processor(["a"], 64)
    images, _ = scenes.perception_batch(np.random.default_rng(0), 3)
    expected = processor.image_processor(images=[Image.fromarray(i) for i in images], return_tensors="pt")
    pixels, grid = patches(images)
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-5, rtol=1e-5)
    assert torch.equal(grid, expected["image_grid_thw"])


def test_augmentation_keeps_size_and_depends_on_the_generator_alone(scenes: SceneMaterial) -> None:
    images, _ = scenes.perception_batch(np.random.default_rng(0), 3)
    first, again, other = (augmented(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_same_caption_twice_is_right_for_both(scenes: SceneMaterial) -> None:
    class Model:
        device = torch.device("cpu")

        def __call__(self, **_: object) -> object:
            logits = torch.tensor([[5.0, 5.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 50.0]])
            return type("Output", (), {"logits_per_image": logits})

    class Tokens(dict[str, torch.Tensor]):
        def to(self, device: torch.device) -> Tokens:
            return self

    images, _ = scenes.perception_batch(np.random.default_rng(0), 3)
    loss = contrastive_loss(Model(), lambda *a, **k: Tokens(), images, ["a tank", "a tank", "two ships"])  # type: ignore[arg-type]
    # each of the two equal rows has two right texts: log 2; the third row adds almost nothing
    assert loss.item() == pytest.approx(2 / 3 * np.log(2 + np.exp(-5)), abs=1e-3)
    assert normalized(images).shape == (3, 3, 64, 64)


def test_labels_describe_the_object_in_each_cell() -> None:
    truth = next(t for seed in PRETRAIN_SEEDS if len((t := sample_scene(seed)).groups) == 2)
    labels = perception_labels([truth])
    assert int((labels["cell_object"] > 0).sum()) == sum(group.count for group in truth.groups)
    assert torch.equal(labels["cell_object"] > 0, labels["cell_colour"] >= 0)


def test_material_depends_on_the_generator_alone(scenes: SceneMaterial) -> None:
    first, again, other = (scenes.language_batch(np.random.default_rng(seed), 8, 0) for seed in (1, 1, 2))
    assert first[1] == again[1] and first[1] != other[1]
    assert np.array_equal(first[0], again[0])
