"""What a CLIP and a SigLIP do differently between an image or a text and its vector.

A CLIP projects the pooled output of both towers and masks padding. A SigLIP has no projections, and reads texts that
are padded to its context, without a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rsqa_pipeline.models.load import SIGLIP_FAMILIES, Clip


def is_siglip(model: Any) -> bool:
    """Whether a model with two towers is a SigLIP, by the type in its configuration."""
    return model.config.model_type in SIGLIP_FAMILIES


def text_context(model: Any) -> int:
    """Maximum text length in tokens, start and end tokens included."""
    return int(model.config.text_config.max_position_embeddings)


def tokenize(clip: Clip, texts: Sequence[str], windows: bool = False) -> dict[str, Tensor]:
    """Padded tokens, (texts, tokens) each; a longer text than the context is cut at the end.

    Args:
        windows: the cut parts follow as rows of their own, ``overflow_to_sample_mapping`` says whose.
    """
    tokens = clip.tokenizer(
        list(texts),
        padding="max_length" if is_siglip(clip.model) else True,
        truncation=True,
        max_length=text_context(clip.model),
        return_overflowing_tokens=windows,
        return_tensors="pt",
    )
    return dict(tokens)


def project_images(model: Any, pooled: Tensor) -> Tensor:
    """(b, width) image vectors of any length from the vision tower's pooled output (b, hidden)."""
    vectors: Tensor = pooled if is_siglip(model) else model.visual_projection(pooled)
    return vectors


def embed_tokens(model: Any, tokens: Mapping[str, Tensor]) -> Tensor:
    """(b, width) text vectors of any length; ``tokens`` of `tokenize`, on the model's device."""
    pooled: Tensor = model.text_model(**model_tokens(model, tokens)).pooler_output
    vectors: Tensor = pooled if is_siglip(model) else model.text_projection(pooled)
    return vectors


def model_tokens(model: Any, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the `tokenize` outputs that the text tower takes."""
    names = ("input_ids",) if is_siglip(model) else ("input_ids", "attention_mask")
    return {name: tokens[name] for name in names}
