from __future__ import annotations

from pathlib import Path

import pytest

from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)

TEXTS = ["system user assistant", "You are a helpful assistant.", "two white tanks on the left", "how many? 3"] * 3


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute(device="cpu")


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    processor = train_vlm_processor(TEXTS, 64)
    new_vlm(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_clip_tokenizer(TEXTS)
    new_clip(tokenizer, 64, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    new_clip_image_processor(64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vlm(vlm_folder: Path, cpu: Compute) -> Vlm:
    return load_vlm(vlm_folder, cpu)
