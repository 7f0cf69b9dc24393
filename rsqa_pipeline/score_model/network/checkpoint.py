"""Score-model checkpoints on disk: our layout, the released one, and the checks before loading either.

Ours is config.json (the backbone's config, ``architectures: ["ScoreModel"]``, ``score_activation``) and
safetensors named as the model's own parameters. Its ``model_type`` is one of our own, ``rsqa_score_<family>``, so that
transformers refuses the folder: it would load the backbone alone, without the head. The backbone's own ``model_type``
is stored as ``backbone_model_type``; in folders of older versions, ``model_type`` is the backbone's. The released
layout is that of an older transformers: a flat Qwen2-VL config with ``architectures: ["Qwen2Reward"]``, the language
model under ``model.``, the vision tower under ``visual.``, the head as ``reward_head.weight``, and always softplus
(paper, released code).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models import model_folder
from rsqa_pipeline.models.families import family_named
from rsqa_pipeline.models.load import load_processor, local_folder
from rsqa_pipeline.models.model_folder import BACKBONE_TYPE, abbreviated, reading
from rsqa_pipeline.score_model import additions

OURS, RELEASED = "ScoreModel", "Qwen2Reward"
MODEL_TYPE_PREFIX = "rsqa_score_"
"""Start of ``model_type`` in our layout; no model type of transformers starts so."""
RELEASED_PREFIXES = {
    "model.": "backbone.language_model.",
    "visual.": "backbone.visual.",
    "reward_head.": "head.",
}


def read_base(path_or_id: str, revision: str | None = None) -> PreTrainedModel:
    """The backbone of an image-text checkpoint, float32, without its language head.

    Raises:
        ModelError: no such checkpoint, no safetensors, a family that is not supported, missing tensors.
    """
    folder = local_folder(path_or_id, revision)
    settings = model_folder.read_config(folder)
    if BACKBONE_TYPE in settings:
        raise ModelError(f"{folder} is a score model, not a base model; load it with ScoreModel.from_pretrained")
    _check_family(folder, settings)
    stored = model_folder.check_folder(folder)
    with reading(folder, "cannot be loaded as an image-text backbone"):
        with torch.device("meta"):
            model_folder.check_size(folder, AutoModel.from_config(AutoConfig.from_pretrained(folder)), stored)
        backbone, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    if info["missing_keys"]:
        raise ModelError(f"{folder} lacks tensors of the backbone: {abbreviated(info['missing_keys'])}")
    return backbone


def read_processor(path_or_id: str | Path) -> ProcessorMixin:
    """The processor stored with a checkpoint, of any family.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    folder = local_folder(path_or_id)
    with _without_warning_of_own_model_type():
        return load_processor(folder)


@contextmanager
def _without_warning_of_own_model_type() -> Iterator[None]:
    """Transformers reads the config beside a tokenizer, and warns about a model type that is not its own."""
    logger = logging.getLogger("transformers.configuration_utils")

    def wanted(record: logging.LogRecord) -> bool:
        return MODEL_TYPE_PREFIX not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def read_config(folder: Path) -> tuple[PretrainedConfig, Any]:
    """The backbone's config and the output's activation."""
    settings = _backbone_settings(model_folder.read_config(folder))
    architecture = _architecture(settings)
    if architecture == RELEASED:
        activation = "softplus"
    elif architecture == OURS:
        activation = settings.pop("score_activation", None)
        if activation not in ("none", "softplus"):
            raise ModelError(f"{folder}/config.json: score_activation must be none or softplus, found {activation!r}")
    else:
        raise ModelError(
            f"{folder} is not a score model: its architecture is {architecture!r}, known are {OURS} and "
            f"{RELEASED}; start from a VLM with ScoreModel.from_base"
        )
    _check_family(folder, settings)
    with reading(folder / "config.json"):
        return CONFIG_MAPPING[settings["model_type"]].from_dict(settings), activation


def _check_family(folder: Path, settings: Mapping[str, Any]) -> None:
    family_named(settings.get("model_type"), folder)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors under the model's own names, from either layout."""
    tensors: dict[str, Tensor] = {}
    for file in model_folder.weight_files(folder):
        if file.name == additions.FILE:
            continue
        with reading(file, "is not a readable safetensors file"):
            tensors.update(load_file(file))
    if _architecture(model_folder.read_config(folder)) == RELEASED:
        return {_from_released(name): tensor for name, tensor in tensors.items()}
    return tensors


def check_tensors(folder: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises ModelError naming missing, unknown and misshapen tensors, all kinds at once."""
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "misshapen": misshapen,
    }
    faults = [f"{kind}: {abbreviated(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise ModelError(f"{folder} does not contain the tensors that its config.json requires; " + "; ".join(faults))


def write(folder: Path, config: PretrainedConfig, activation: str, tensors: Mapping[str, Tensor]) -> None:
    """Our layout."""
    settings = _settings(config) | {"architectures": [OURS], "score_activation": activation}
    family = settings["model_type"]
    settings |= {"model_type": MODEL_TYPE_PREFIX + family, BACKBONE_TYPE: family}
    _write(folder, settings, dict(tensors))


def write_released(folder: Path, config: PretrainedConfig, tensors: Mapping[str, Tensor]) -> None:
    """The released layout."""
    settings = _settings(config)
    text = settings.pop("text_config")
    rope = dict(text.pop("rope_parameters"))
    flat = {key: value for key, value in text.items() if key not in ("model_type", "layer_types")}
    flat["rope_theta"] = rope.pop("rope_theta")
    # The older transformers reads the kind of rope from "type"; there, "default" with sections means multimodal rope.
    flat["rope_scaling"] = rope | {"type": rope["rope_type"]}
    settings = flat | settings | {"architectures": [RELEASED], "ranked_candidate_num": 2}
    settings["vision_config"] = {
        key: value for key, value in settings["vision_config"].items() if key != "rope_parameters"
    } | {"model_type": "qwen2_vl"}
    _write(folder, settings, {_to_released(name): tensor for name, tensor in tensors.items()})


def _backbone_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json with the backbone's own ``model_type``, in any layout."""
    backbone = dict(settings)
    if BACKBONE_TYPE in backbone:
        backbone["model_type"] = backbone.pop(BACKBONE_TYPE)
    return backbone


def _settings(config: PretrainedConfig) -> dict[str, Any]:
    """The config without the folder it was read from, which differs between machines."""
    settings: dict[str, Any] = config.to_dict()
    for part in (settings, *settings.values()):
        if isinstance(part, dict):
            part.pop("_name_or_path", None)
    return settings


def _write(folder: Path, settings: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    save_torch_state_dict({name: tensor.detach().cpu() for name, tensor in tensors.items()}, str(folder))


def _from_released(name: str) -> str:
    for old, new in RELEASED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name  # unchanged, so that the check reports it as unknown


def _to_released(name: str) -> str:
    old, new = next((old, new) for old, new in RELEASED_PREFIXES.items() if name.startswith(new))
    return old + name.removeprefix(new)


def _architecture(settings: Mapping[str, Any]) -> str:
    names = settings.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else "none"
