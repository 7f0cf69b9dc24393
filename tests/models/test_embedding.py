"""Unit vectors of a CLIP and of other embedding models, against the models' own outputs; load errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessor,
)

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.clip_embeddings import embed_images
from rsqa_pipeline.models.embedding import load_image_embedder, load_text_embedder
from rsqa_pipeline.models.load import load_clip
from rsqa_pipeline.profile import Compute

TEXTS = ["two white tanks on the left", "how many? 3", "the left"]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture(scope="module")
def image_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    small = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(small).save_pretrained(folder)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_model_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(small).save_pretrained(folder)
    return folder


def test_a_clip_returns_its_projected_embeddings(
    clip_folder: Path, cpu: Compute, images: list[Image.Image], tmp_path: Path
) -> None:
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    expected = embed_images(load_clip(clip_folder, cpu), [str(tmp_path / f"{n}.png") for n in range(3)], 2)
    assert load_image_embedder(clip_folder, cpu)(images) == pytest.approx(expected, abs=1e-5)
    assert load_text_embedder(clip_folder, cpu)(TEXTS).shape == (3, expected.shape[1])


def test_another_image_model_returns_its_pooled_output(
    image_model_folder: Path, cpu: Compute, images: list[Image.Image]
) -> None:
    found = load_image_embedder(image_model_folder, cpu)(images)
    pixels = ViTImageProcessor.from_pretrained(image_model_folder)(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(image_model_folder).eval()(pixel_values=pixels).pooler_output.numpy()
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)


def test_a_siglip_returns_the_pooled_output_of_its_vision_tower(
    cpu: Compute, images: list[Image.Image], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**small, "vocab_size": 9}, vision_config={**small, "image_size": 32, "patch_size": 16}
    )
    siglip = SiglipModel(config).eval()
    siglip.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = siglip.vision_model(pixel_values=pixels).pooler_output.numpy()
    found = load_image_embedder(tmp_path, cpu)(images)
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)


def test_another_text_model_returns_the_mean_over_the_tokens_of_a_text(text_model_folder: Path, cpu: Compute) -> None:
    embed = load_text_embedder(text_model_folder, cpu)
    together, alone = embed(TEXTS), np.concatenate([embed([text]) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-5)  # padding is excluded from the mean
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_load_errors(image_model_folder: Path, cpu: Compute, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        load_image_embedder(tmp_path / "nowhere", cpu)
    with pytest.raises(ModelError, match="no AutoTokenizer that can be read"):
        load_text_embedder(image_model_folder, cpu)
