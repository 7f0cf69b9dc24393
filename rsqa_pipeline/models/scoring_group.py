"""Input and output of every scorer: the candidates of one image, and a score or a reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from rsqa_pipeline.records import Message

SCORE_REASONS = {
    "no_answer": "the last message is not the assistant's, so there is no text to score",
    "no_user_turn": "there is an image, but no user turn to show it in",
    "no_image": "a CLIP score needs an image",
    "context_too_long": "image and context leave the text no room in the model's context",
    "out_of_memory": "not even the text alone with a small image fits in memory",
    "not_finite": "the model's output is NaN or infinite",
}
"""Why a text has no score, besides the reasons of an unusable image (`rsqa_pipeline.images.decode.REASONS`)."""

LOWER_BOUND_SPREADS = 1.645
"""Spreads between a score and its lower bound: the one-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class ScoringGroup:
    """Texts that compete for the same image and context.

    Example: ``ScoringGroup("images.tar#512+4311", [{"role": "user", "content": "How many ships are there?"}],
        ["3", "5"])``.
    """

    image: str | Image.Image | None
    """Reference or decoded image; None for text-only candidates."""
    context: Sequence[Message]
    """Turns before the candidate; empty for captions."""
    candidates: Sequence[str]
    """Texts of the assistant's last turn."""


@dataclass(frozen=True)
class Score:
    """One candidate's score, or the reason why it has none. Exactly one of the two is set."""

    value: float | None
    reason: str | None = None
    """One of a few codes that are counted: a key of `SCORE_REASONS`, or the reason of an `ImageFault`."""
    detail: str | None = None
    note: str | None = None
    """How the input was reduced to fit: ``text_cut``, ``image_downscaled``, or both, separated by a comma."""
    spread: float | None = None
    """Standard deviation of the bootstrap heads' scores, in the score's unit; None for a scorer without such heads."""
    tokens: int | None = None
    """Tokens of the text alone, before anything is cut; None where the scorer does not count them."""

    @property
    def lower_bound(self) -> float | None:
        """The score minus `LOWER_BOUND_SPREADS` spreads; None if score or spread is missing."""
        if self.value is None or self.spread is None:
            return None
        return self.value - LOWER_BOUND_SPREADS * self.spread
