"""How large an image may become: training, scoring and generation all give it at most half of the model's context.

A larger image is made smaller and keeps its shape, so that every image that ingest accepts fits every later stage.
"""

from __future__ import annotations

from typing import Any

from rsqa_pipeline.images.limits import MAX_SIDE_RATIO


def max_image_tokens(context: int) -> int:
    """The tokens that an image may take in a context of so many tokens."""
    return context // 2


def image_size(image_processor: Any, max_tokens: int, side_ratio: float = MAX_SIDE_RATIO) -> dict[str, int]:
    """The argument ``size`` of a Qwen-VL image processor that keeps an image within ``max_tokens`` tokens.

    The processor rounds a side below one token up to one, so a long strip takes more tokens than its area does.

    Args:
        max_tokens: at least 1.
        side_ratio: longest side over shortest side, at most; by default, that of any image.

    Returns:
        ``shortest_edge`` and ``longest_edge``: least and greatest area in pixels, not above the processor's own.
    """
    token_pixels = (int(image_processor.merge_size) * int(image_processor.patch_size)) ** 2
    strip = max_tokens**2 / side_ratio  # a strip of one row of tokens has max_tokens of them
    largest = int(min(max_tokens, strip) * token_pixels)
    # a small image is enlarged, and both sides are rounded up: at most twice each
    smallest = int(min(max_tokens / 4, strip) * token_pixels)
    return {
        "shortest_edge": min(int(image_processor.size["shortest_edge"]), max(1, smallest)),
        "longest_edge": min(int(image_processor.size["longest_edge"]), max(1, largest)),
    }
