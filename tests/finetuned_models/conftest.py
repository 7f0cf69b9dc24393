"""A small corpus on disk: images, captions, instructions, a subset, and base models with random weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import CaptionStep, ClipStep, Compute, FinetunedModels, InstructionStep, Profile
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, SUBSET, Message, read_table, sample_id, write_table
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 60, 200), "white": (230, 230, 230)}
IMAGES = 16


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of the fine-tuning assets: 16 plain-coloured images, each with a caption and a question; 12 are kept."""
    root = tmp_path_factory.mktemp("corpus")
    inputs = {n: root / n for n in ("image_text_pairs", "instruction_samples", "subset_all", "base_models")}
    for folder in inputs.values():
        folder.mkdir()
    rng = np.random.default_rng(0)
    captions, questions, kept = [], [], []
    for index in range(IMAGES):
        name = list(COLOURS)[index % len(COLOURS)]
        pixels = np.clip(rng.normal(COLOURS[name], 10, (64, 64, 3)), 0, 255).astype(np.uint8)
        file = root / f"{index}.png"
        Image.fromarray(pixels).save(file)
        caption = [Message(role="assistant", content=f"a {name} field seen from above")]
        question = [
            Message(role="user", content="Which colour is the field?"),
            Message(role="assistant", content=name),
        ]
        for table, messages, task in ((captions, caption, "caption"), (questions, question, "open")):
            sample = sample_id(str(index), messages)
            table.append(
                {"sample_id": sample, "image_id": str(index // 2), "image": str(file), "messages": messages}
                | {"task": task, "source": "test", "split": "corpus"}
            )
            if index < 12:
                kept.append({"sample_id": sample, "kind": "caption" if task == "caption" else "instruction"})
    write_table(inputs["image_text_pairs"] / "samples.parquet", IMAGE_TEXT_SAMPLE, captions)
    write_table(inputs["instruction_samples"] / "samples.parquet", IMAGE_TEXT_SAMPLE, questions)
    write_table(inputs["subset_all"] / "ids.parquet", SUBSET, kept)
    (inputs["subset_all"] / "rule.json").write_text(json.dumps({"selector": "all"}))
    _write_base_models(inputs["base_models"], [m["content"] for row in captions + questions for m in row["messages"]])
    return inputs


def _write_base_models(folder: Path, texts: list[str]) -> None:
    processor = train_vlm_processor(texts * 4, image_size=64)
    new_vlm(processor, seed=0).save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    tokenizer = train_clip_tokenizer(texts * 4)
    new_clip(tokenizer, image_size=64, seed=0).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    new_clip_image_processor(64).save_pretrained(folder / "clip")
    for kind in ("vlm", "clip"):
        entry = {"path": kind, "version": weights_version(folder / kind)}
        (folder / f"{kind}.json").write_text(json.dumps(entry))


@pytest.fixture(scope="session")
def siglip_corpus(corpus: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same corpus, and a SigLIP as the CLIP that its assets start from."""
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = AutoTokenizer.from_pretrained(corpus["base_models"] / "clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    siglip = SiglipModel(config)
    with torch.no_grad():  # where SigLIP's training starts
        siglip.logit_scale.fill_(math.log(10))
        siglip.logit_bias.fill_(-10)
    for part in (siglip, tokenizer, SiglipImageProcessor(size={"height": 32, "width": 32})):
        part.save_pretrained(folder / "clip")
    entry = {"path": "clip", "version": weights_version(folder / "clip")}
    (folder / "clip.json").write_text(json.dumps(entry))
    return {**corpus, "base_models": folder}


@pytest.fixture
def emptied(corpus: dict[str, Path], tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """Inputs of which the subset, ``empty``, keeps nothing of a kind. Models are nowhere: nothing is loaded before."""

    def make(kind: str) -> dict[str, Path]:
        empty = tmp_path / "subset_empty"
        shutil.copytree(corpus["subset_all"], empty)
        rows = [row for row in read_table(empty / "ids.parquet") if row["kind"] != kind]
        write_table(empty / "ids.parquet", SUBSET, rows)
        rest = {name: path for name, path in corpus.items() if name != "subset_all"}
        return rest | {"subset_empty": empty, "base_models": tmp_path / "nowhere"}

    return make


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished trainings are kept in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings() -> Profile:
    """Profile with only the section of fine-tuning; large learning rates, so that a few steps have an effect."""
    return Profile.model_construct(
        name="test",
        seed=3,
        compute=Compute(device="cpu"),
        finetuned_models=FinetunedModels(
            seeds=[3],
            clip=ClipStep(learning_rate=3e-4, batch_size=6, epochs=4, weight_decay=0.1, warmup_steps=1),
            vlm_captions=CaptionStep(learning_rate=1e-2, batch_size=6, epochs=2),
            vlm_instructions=InstructionStep(learning_rate=1e-2, batch_size=6, epochs=2, lora_rank=4, lora_alpha=8),
            max_length=120,
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make
