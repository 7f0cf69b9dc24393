"""Peak memory of training and scoring: weights, gradients, optimizer, activations, logits. In bytes."""

from __future__ import annotations

from rsqa_pipeline.sizing.model_shape import Layers

ADAM = 4 + 4 + 8
"""Bytes per trained weight: weight and gradient in float32, and AdamW's two moments."""
LOGIT_COPIES = 3
"""Float32 copies of the logits at the loss: logits, log-probabilities, gradient."""
LIBRARIES = 560 * 2**20
"""What Python, torch and transformers take of a process's own memory; a part of the estimate on a CPU alone."""


def state(weights: float, trained: float, bytes_per_weight: int) -> float:
    """Frozen weights in their own type, trained ones with gradient and optimizer."""
    return (weights - trained) * bytes_per_weight + trained * ADAM


def activations(layers: Layers, tokens: float, size: int, recomputed: bool) -> float:
    """What the backward pass needs of the forward pass.

    Per token and layer: two norms and their inputs, queries and attention's output (6 widths), keys and values, and the
    feed-forward block's inner values (SwiGLU 4, GELU 2). Recomputed: one width per layer, and one layer completely.

    Args:
        tokens: of all sequences of a pass.
        size: bytes of a value.
    """
    whole = 6 * layers.width + 2 * layers.key_width + (4 if layers.gated else 2) * layers.mlp
    kept = layers.count * layers.width + whole if recomputed else layers.count * whole
    return tokens * size * kept


def inference(layers: Layers, tokens: float, size: int) -> float:
    """One layer's values; all others are freed."""
    return activations(layers, tokens, size, recomputed=False) / layers.count


def keys(layers: Layers, tokens: float, size: int) -> float:
    """Cached keys and values of a generation."""
    return 2 * layers.count * layers.key_width * tokens * size


def logits(tokens: float, vocabulary: int) -> float:
    return tokens * vocabulary * 4 * LOGIT_COPIES
