from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.scene_material import SceneMaterial


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute(device="cpu")


@pytest.fixture(scope="session")
def scenes() -> SceneMaterial:
    return SceneMaterial(40, seed=3)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A random ViT as a model folder."""
    torch.manual_seed(0)
    folder = tmp_path / "encoder"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
