from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.load import (
    Vlm,
    base_model,
    load_clip,
    load_processor,
    load_vlm,
    weights_version,
)
from rsqa_pipeline.models.model_folder import PICKLE_SUFFIXES
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.score_model.network.model import ScoreModel


def test_vlm_round_trip_keeps_weights_processor_and_version(
    vlm: Vlm, vlm_folder: Path, tmp_path: Path, cpu: Compute
) -> None:
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    again = load_vlm(tmp_path, cpu)
    for name, weight in vlm.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert again.processor.tokenizer.get_vocab() == vlm.processor.tokenizer.get_vocab()
    assert again.processor.chat_template == vlm.processor.chat_template
    assert vlm.version == weights_version(vlm_folder)
    assert not again.model.training


def test_clip_loads_with_its_tokenizer_and_image_processor(clip_folder: Path, cpu: Compute) -> None:
    clip = load_clip(clip_folder, cpu)
    tokens = clip.tokenizer(["two tanks", "x " * 200], padding=True, truncation=True, return_tensors="pt")
    assert tokens["input_ids"].shape == (2, 77)
    assert tokens["input_ids"][1, -1] == clip.tokenizer.eos_token_id


def test_clip_reads_a_text_to_its_end(clip_folder: Path, cpu: Compute) -> None:
    clip = load_clip(clip_folder, cpu)
    tokens = clip.tokenizer(["two tanks", "two tanks two tanks"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        short, long = clip.model.get_text_features(**tokens).pooler_output
    assert not torch.allclose(short, long)


def test_version_changes_with_one_weight(vlm_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(vlm_folder, tmp_path / "vlm")
    file = tmp_path / "vlm" / "model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, file, metadata={"format": "pt"})
    assert weights_version(tmp_path / "vlm") != weights_version(vlm_folder)


@pytest.mark.parametrize("suffix", PICKLE_SUFFIXES)
def test_both_loaders_name_the_same_pickles(vlm_folder: Path, tmp_path: Path, cpu: Compute, suffix: str) -> None:
    shutil.copy(vlm_folder / "config.json", tmp_path)
    (tmp_path / f"weights{suffix}").write_bytes(b"pickle")
    for load in (lambda: load_vlm(tmp_path, cpu), lambda: ScoreModel.from_base(str(tmp_path))):
        with pytest.raises(ModelError, match=rf"pickled weights \(weights\{suffix}\)"):
            load()


def test_pickled_weights_are_refused(vlm_folder: Path, tmp_path: Path, cpu: Compute) -> None:
    folder = tmp_path / "vlm"
    shutil.copytree(vlm_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(vlm_folder / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_vlm(folder, cpu)


def test_a_missing_tensor_is_an_error(vlm_folder: Path, tmp_path: Path, cpu: Compute) -> None:
    folder = tmp_path / "vlm"
    shutil.copytree(vlm_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("input_layernorm.weight"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack"):
        load_vlm(folder, cpu)


def test_truncated_weights_are_a_model_error(vlm_folder: Path, tmp_path: Path, cpu: Compute) -> None:
    folder = tmp_path / "vlm"
    shutil.copytree(vlm_folder, folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_vlm(folder, cpu)


def test_a_clip_is_not_accepted_as_a_vlm(clip_folder: Path, cpu: Compute) -> None:
    with pytest.raises(ModelError, match="model type 'clip' is unknown; known: qwen2_vl"):
        load_vlm(clip_folder, cpu)


def test_missing_folder_is_an_error(cpu: Compute) -> None:
    with pytest.raises(ModelError, match="no model folder no/such/folder"):
        load_vlm("no/such/folder", cpu)


def test_folder_without_processor_is_an_error(vlm_folder: Path, tmp_path: Path) -> None:
    shutil.copy(vlm_folder / "config.json", tmp_path)
    with pytest.raises(ModelError, match="has a processor that cannot be read"):
        load_processor(tmp_path)


def test_base_model_is_the_folder_that_its_entry_names(vlm_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(vlm_folder, tmp_path / "vlm")
    entry = {"path": "vlm", "version": weights_version(vlm_folder)}
    (tmp_path / "vlm.json").write_text(json.dumps(entry))
    assert base_model(tmp_path, "vlm") == str(tmp_path / "vlm")
    (tmp_path / "vlm.json").write_text(json.dumps({**entry, "version": "0" * 64}))
    with pytest.raises(ModelError, match="not the version 000000000000"):
        base_model(tmp_path, "vlm")
    with pytest.raises(ModelError, match="materialize the asset base_models first"):
        base_model(tmp_path, "clip")
