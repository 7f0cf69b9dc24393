"""Largest images that any stage opens. A profile may set less, not more: later stages open images with these."""

from __future__ import annotations

MAX_PIXELS = 100_000_000
"""Width times height."""
MAX_BYTES = 512 * 2**20
"""Of an image file."""
MAX_SIDE_RATIO = 200
"""Longest side over shortest side; the image processors of the Qwen-VL families refuse more."""
