"""FLOPs of a forward pass and of training, by counting matrix products: two per weight and token, and attention."""

from __future__ import annotations

from typing import Literal

from rsqa_pipeline.sizing.model_shape import ClipShape, Layers, VlmShape

Trained = Literal["head", "connector", "lora", "language", "vision"]


def layer_flops(layers: Layers, tokens: float, attended: float) -> float:
    """A forward pass of one sequence through the layers.

    Args:
        tokens: length of the sequence.
        attended: tokens that each token is compared with, masked ones included.
    """
    return 2 * layers.matrices * tokens + 4 * layers.count * layers.width * tokens * attended


def vision_flops(shape: VlmShape, image_tokens: float) -> float:
    """The vision tower and the connector, one image."""
    patches = image_tokens * shape.merge**2
    products = 2 * shape.patch_matrix * patches + 2 * shape.connector_matrices * image_tokens
    return products + layer_flops(shape.vision, patches, patches)


def language_flops(shape: VlmShape, tokens: float, head_tokens: float) -> float:
    """The language model, one sequence; ``head_tokens`` of it also go through the output head."""
    return layer_flops(shape.text, tokens, tokens) + 2 * shape.head * head_tokens


def clip_flops(shape: ClipShape, text_tokens: float) -> tuple[float, float]:
    """Both towers, one image and one text: (vision, text)."""
    seen = layer_flops(shape.vision, shape.patches, shape.patches)
    seen += 2 * shape.vision.width * (3 * shape.patch**2 * (shape.patches - 1) + shape.projection)
    said = layer_flops(shape.text, text_tokens, text_tokens) + 2 * shape.text.width * shape.projection
    return seen, said


def training_passes(trained: set[Trained], recomputed: bool) -> tuple[float, float]:
    """Cost of training in forward passes: (vision tower, language model).

    One forward pass; one pass for the gradients of what is passed through, where anything below is trained; one for the
    gradients of weights, where these are trained; one more forward pass where activations are recomputed.
    """
    through_language = bool(trained & {"vision", "connector", "language", "lora"})
    vision = 3.0 if "vision" in trained else 1.0
    language = 1.0 + through_language + ("language" in trained)
    return vision + (recomputed and "vision" in trained), language + (recomputed and through_language)
