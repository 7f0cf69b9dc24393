"""Checks a model folder before anything is allocated: its files come from anywhere, and a loader believes them.

Only safetensors are read. Opening a pickle can run code, so a folder with nothing but pickles is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rsqa_pipeline.errors import ModelError

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""Endings of pickled weights, which are never opened."""
MAX_CONFIG_BYTES = 4 * 2**20
MAX_JSON_BYTES = 256 * 2**20
"""Of any other JSON file; tokenizer.json of a vocabulary of 256,000 has 35 MB."""
MAX_DEPTH = 32
"""Nested objects and lists in config.json; published ones have at most 5."""
MAX_INTEGER = 2**31
"""Greatest size or id in config.json."""
MAX_LAYERS = 1024
BACKBONE_TYPE = "backbone_model_type"
"""Key of the backbone's ``model_type`` in the config.json of a score model."""
MAX_SHOWN_NAMES = 5
"""Maximum number of names shown in an error."""
_FLOATS = ("F64", "F32", "F16", "BF16")
_INDEX_BUFFERS = ("position_ids", "relative_position_index", "num_batches_tracked")
"""Integer tensors that hold positions or counts; older checkpoints of CLIP store them."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        ModelError: it is missing, too large, nested too deeply, not a JSON object, or holds a number that no model has.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} contains no config.json, so it is not a checkpoint")
    with reading(file):
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{file} has more than {MAX_CONFIG_BYTES // 2**20} MiB; it is not a model's configuration")
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ModelError(f"{file} must contain a JSON object, found {type(settings).__name__}")
        _check_values(file, "", settings, MAX_DEPTH)
    return settings


def model_type(settings: dict[str, Any]) -> object:
    """The ``model_type`` in a config.json; of a score model, that of its backbone."""
    return settings.get(BACKBONE_TYPE, settings.get("model_type"))


def _check_values(file: Path, key: str, value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth == 0:
            raise ModelError(f"{file}: nested more than {MAX_DEPTH} deep")
        for name, member in value.items() if isinstance(value, dict) else enumerate(value):
            _check_values(file, name if isinstance(name, str) else key, member, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ModelError(f"{file}: {key} is {value}")
    elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise ModelError(f"{file}: {key} is {str(value)[:20]}; no model has such a size")
    elif isinstance(value, int) and ("layers" in key or key == "depth") and value > MAX_LAYERS:
        raise ModelError(f"{file}: {key} is {value}; at most {MAX_LAYERS} are accepted")


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, sorted; a missing shard shows as missing tensors.

    Raises:
        ModelError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if pickles := sorted(file.name for file in folder.glob("*") if file.suffix in PICKLE_SUFFIXES):
        raise ModelError(
            f"{folder} holds only pickled weights ({abbreviated(pickles)}), which can run code when opened; save the "
            "model again with save_pretrained, which writes safetensors"
        )
    raise ModelError(f"{folder} holds no *.safetensors file")


def check_folder(folder: Path) -> int:
    """Checks everything that can be checked without reading the weights.

    Returns:
        Number of weights stored.

    Raises:
        ModelError: see `read_config` and `weight_files`; a JSON file that is too large; weights that are not floating
            point, or a file that is not safetensors.
    """
    read_config(folder)
    for file in folder.glob("*.json"):
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file} has more than {MAX_JSON_BYTES // 2**20} MiB")
    stored, integers = 0, []
    for file in weight_files(folder):
        with reading(file, "is not a readable safetensors file"), safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safe_open is not a mapping)
                part = tensors.get_slice(name)
                stored += math.prod(part.get_shape())
                if part.get_dtype() not in _FLOATS and not name.endswith(_INDEX_BUFFERS):
                    integers.append(f"{name} ({part.get_dtype()})")
    if integers:
        raise ModelError(
            f"{folder}: weights must be floating point, found {abbreviated(integers)}; quantized checkpoints are not "
            "supported, convert to float32, float16 or bfloat16"
        )
    return stored


def check_size(folder: Path, model: torch.nn.Module, stored: int) -> None:
    """Raises ModelError if the model that config.json describes has far more weights than the folder holds.

    Args:
        model: built on the meta device, where nothing is allocated.
        stored: see `check_folder`.
    """
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > 2 * stored:  # a language head that shares its weights with the embedding is stored once
        raise ModelError(
            f"{folder}: config.json describes a model of {described:,} weights, but the files hold {stored:,}; they do "
            "not belong together"
        )


@contextmanager
def reading(file: Path, fault: str = "cannot be read") -> Iterator[None]:
    """Turns any exception of a third-party reader into a ModelError of one line.

    transformers and tokenizers raise whatever their parsers meet (KeyError, AttributeError, plain Exception), and a
    panic of tokenizers is a BaseException.
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        detail = " ".join(str(error).split())[:300]
        raise ModelError(f"{file} {fault}: {type(error).__name__}: {detail}") from error


def abbreviated(names: list[str]) -> str:
    rest = f" and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else ""
    return ", ".join(sorted(names)[:MAX_SHOWN_NAMES]) + rest
