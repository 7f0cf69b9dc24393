"""The table of cards."""

from __future__ import annotations

from pathlib import Path

from rsqa_pipeline.errors import UsageError
from rsqa_pipeline.profile.types import Section
from rsqa_pipeline.profile.yaml_file import read_yaml


class Card(Section):
    """A GPU: dense bfloat16 peak, memory in 10^9 bytes, memory bandwidth."""

    bf16_tflops: float
    memory_gb: float
    bandwidth_tbs: float


def card_of(name: str) -> Card:
    """A card of hardware.yaml. Raises UsageError if there is none of that name."""
    cards = read_yaml(Path(__file__).with_name("hardware.yaml"))
    if name not in cards:
        raise UsageError(
            f"--gpu {name!r} is unknown; known: {', '.join(cards)}. Add it to rsqa_pipeline/sizing/hardware.yaml"
        )
    return Card.model_validate(cards[name])
