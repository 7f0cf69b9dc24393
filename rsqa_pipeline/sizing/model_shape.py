"""The shape of a model and its exact number of weights, from config.json or from a table of published shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.models.model_folder import read_config


@dataclass(frozen=True)
class Layers:
    """A stack of transformer layers: attention and a feed-forward block."""

    count: int
    width: int
    mlp: int
    key_width: int
    """Width of keys, and of values: below ``width`` where query heads share them."""
    gated: bool
    """SwiGLU (three matrices, RMSNorm, biases on q, k and v alone) or GELU (two matrices, LayerNorm, all biases)."""

    @cached_property
    def matrices(self) -> int:
        """Weights in matrices: each token meets every one of them once."""
        attention = 2 * self.width * (self.width + self.key_width)
        return self.count * (attention + (3 if self.gated else 2) * self.width * self.mlp)

    @cached_property
    def weights(self) -> int:
        """Matrices, biases and norms."""
        q_k_v = self.width + 2 * self.key_width
        vectors = q_k_v + 2 * self.width if self.gated else q_k_v + 6 * self.width + self.mlp
        return self.matrices + self.count * vectors


@dataclass(frozen=True)
class VlmShape:
    """A Qwen2-VL: vision tower, connector that merges patches into tokens, language model."""

    vision: Layers
    text: Layers
    vocabulary: int
    tied: bool
    """Output head and input embeddings are one matrix."""
    patch: int = 14
    merge: int = 2

    @cached_property
    def patch_matrix(self) -> int:
        """Weights of the patch embedding: two frames of three colours."""
        return 2 * 3 * self.patch**2 * self.vision.width

    @cached_property
    def connector_matrices(self) -> int:
        merged = self.merge**2 * self.vision.width
        return merged * (merged + self.text.width)

    @cached_property
    def connector(self) -> int:
        merged = self.merge**2 * self.vision.width
        return self.connector_matrices + merged + self.text.width + 2 * self.vision.width

    @cached_property
    def vision_weights(self) -> int:
        """Tower and connector."""
        return self.patch_matrix + self.vision.weights + self.connector

    @cached_property
    def head(self) -> int:
        return self.vocabulary * self.text.width

    @cached_property
    def language_weights(self) -> int:
        """Language model with its embeddings and, if separate, its output head."""
        return self.head * (1 if self.tied else 2) + self.text.weights + self.text.width

    @property
    def weights(self) -> int:
        return self.vision_weights + self.language_weights

    def lora(self, rank: int) -> int:
        """Weights of adapters on every linear layer of the language model."""
        t = self.text
        return t.count * rank * (2 * 2 * t.width + 2 * (t.width + t.key_width) + 3 * (t.width + t.mlp))

    def image_tokens(self, side: int) -> int:
        """Tokens of a square image."""
        return max(1, round(side / (self.patch * self.merge)) ** 2)


@dataclass(frozen=True)
class ClipShape:
    """A CLIP with two towers."""

    vision: Layers
    text: Layers
    vocabulary: int
    projection: int
    image: int
    patch: int
    context: int = 77

    @property
    def patches(self) -> int:
        """Tokens of an image, its class token included."""
        return (self.image // self.patch) ** 2 + 1

    @cached_property
    def vision_weights(self) -> int:
        width = self.vision.width
        return (3 * self.patch**2 + 1 + self.patches + 4) * width + self.vision.weights

    @cached_property
    def weights(self) -> int:
        width = self.text.width
        text = (self.vocabulary + self.context + 2) * width + self.text.weights
        return self.vision_weights + text + (width + self.vision.width) * self.projection + 1


def _qwen2_vl(width: int, mlp: int, key_width: int, layers: int, vocabulary: int, tied: bool) -> VlmShape:
    return VlmShape(
        Layers(32, 1280, 5120, 1280, gated=False), Layers(layers, width, mlp, key_width, True), vocabulary, tied
    )


KNOWN: Mapping[str, VlmShape | ClipShape] = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2_vl(1536, 8960, 256, 28, 151_936, tied=True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl(3584, 18944, 512, 28, 152_064, tied=False),
    "openai/clip-vit-large-patch14": ClipShape(
        Layers(24, 1024, 4096, 1024, False), Layers(12, 768, 3072, 768, False), 49_408, 768, image=224, patch=14
    ),
}
"""Published shapes: 2.21, 8.29 and 0.43 billion weights. A hub id is not looked up: planning works offline."""


SCRATCH = Path(__file__).parent.parent / "tiny_models" / "checkpoints"
"""Models trained from scratch have the shapes of the shipped ones."""


def vlm_shape(model: str) -> VlmShape:
    """The shape of a VLM: a local folder, a known hub id, or ``scratch``.

    Raises:
        UsageError: an id that is not known, or a folder of another family.
    """
    found = KNOWN.get(model) or _vlm(_config(str(SCRATCH / "vlm") if model == "scratch" else model, "qwen2_vl"))
    if not isinstance(found, VlmShape):
        raise UsageError(f"{model} is a CLIP; tiny_models.vlm and tiny_models.scorer need a VLM")
    return found


def clip_shape(model: str) -> ClipShape:
    """The shape of a CLIP, named and refused as in `vlm_shape`."""
    found = KNOWN.get(model) or _clip(_config(str(SCRATCH / "clip") if model == "scratch" else model, "clip"))
    if not isinstance(found, ClipShape):
        raise UsageError(f"{model} is a VLM; tiny_models.clip needs a CLIP")
    return found


def _config(model: str, family: str) -> dict[str, Any]:
    if not Path(model).is_dir():
        raise UsageError(
            f"the shape of {model!r} is unknown; known: {', '.join(KNOWN)}, and local folders. "
            "Add it to KNOWN in rsqa_pipeline/sizing/model_shape.py"
        )
    config = read_config(Path(model))
    if config.get("model_type") != family:
        raise UsageError(
            f"{model}: the size of model type {config.get('model_type')!r} is unknown; {family} is known here. "
            "Add its weights to rsqa_pipeline/sizing/model_shape.py"
        )
    return config


def _vlm(config: Mapping[str, Any]) -> VlmShape:
    from transformers import Qwen2VLConfig  # fills in defaults, and reads the older flat layout

    found = Qwen2VLConfig.from_dict(dict(config))
    text, vision = found.text_config, found.vision_config
    key_width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    tower = Layers(
        vision.depth, vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio), vision.embed_dim, gated=False
    )
    layers = Layers(text.num_hidden_layers, text.hidden_size, text.intermediate_size, key_width, gated=True)
    tied = bool(config.get("tie_word_embeddings", found.tie_word_embeddings))
    return VlmShape(tower, layers, text.vocab_size, tied, vision.patch_size, vision.spatial_merge_size)


def _clip(config: Mapping[str, Any]) -> ClipShape:
    from transformers import CLIPConfig

    found = CLIPConfig.from_dict(dict(config))
    vision, text = (
        Layers(part.num_hidden_layers, part.hidden_size, part.intermediate_size, part.hidden_size, gated=False)
        for part in (found.vision_config, found.text_config)
    )
    seen, said = found.vision_config, found.text_config
    return ClipShape(
        vision, text, said.vocab_size, found.projection_dim, seen.image_size, seen.patch_size,
        said.max_position_embeddings,
    )  # fmt: skip
