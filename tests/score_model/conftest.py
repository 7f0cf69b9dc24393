"""A tiny random VLM with its processor, images on disk, and a small profile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsqa_pipeline.models.load import QwenVLProcessor, weights_version
from rsqa_pipeline.profile import Compute, Profile, load_profile
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}
TEXTS = [f"a {colour} field seen from above" for colour in COLOURS] + ["Is the field red or blue? yes no"]


@pytest.fixture(scope="session")
def processor() -> QwenVLProcessor:
    return train_vlm_processor(TEXTS * 5, image_size=32)


@pytest.fixture(scope="session")
def base_models(tmp_path_factory: pytest.TempPathFactory, processor: QwenVLProcessor) -> Path:
    """Output folder of the asset base_models with random tiny models."""
    folder = tmp_path_factory.mktemp("base_models")
    new_vlm(processor, seed=0).save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    tokenizer, images = train_clip_tokenizer(TEXTS * 5), new_clip_image_processor(32)
    new_clip(tokenizer, 32, seed=0).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    images.save_pretrained(folder / "clip")
    for kind in ("vlm", "clip"):
        entry = {"path": kind, "version": weights_version(folder / kind)}
        (folder / f"{kind}.json").write_text(json.dumps(entry))
    return folder


@pytest.fixture
def model(base_models: Path) -> ScoreModel:
    """A score model on the random backbone, with a random head (an untrained one scores everything 0)."""
    model = ScoreModel.from_base(str(base_models / "vlm"))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


PARTS = {"text": ["head"], "caption": ["vision", "head"], "instruction": ["language", "head"]}
"""What each phase trains, as in the paper and its released configuration."""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Colour name -> file of a 32 x 32 image of that colour, with some noise."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    files = {}
    for name, colour in COLOURS.items():
        pixels = np.clip(np.array(colour) + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
        files[name] = str(folder / f"{name}.png")
        Image.fromarray(pixels).save(files[name])
    return files


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Profile]:
    """The demo profile with a small batch and short phases; ``profile(epochs=2)``. Its state is in tmp_path."""
    monkeypatch.setattr("rsqa_pipeline.profile.loading._missing_paths", lambda profile: [])
    demo = load_profile("demo")
    monkeypatch.chdir(tmp_path)

    def small(epochs: float = 2, **changes: Any) -> Profile:
        phase = {"learning_rate": 2e-3, "batch_size": 4, "epochs": epochs, "weight_decay": 0.0, "warmup_steps": 1}
        settings = demo.model_copy(update={"compute": Compute(device="cpu")})
        phases = {
            name: type(old).model_validate({**phase, "train": PARTS[name], **changes})
            for name, old in settings.score_model.phases
        }
        score_model = settings.score_model.model_copy(
            update={"phases": settings.score_model.phases.model_copy(update=phases), "max_length": 192}
        )
        marks = settings.benchmarks.model_copy(update={"batch_size": 8, "bootstrap_resamples": 50})
        return settings.model_copy(update={"score_model": score_model, "benchmarks": marks})

    return small
