"""What every scorer takes and gives: candidates of one image in, one score or one reason each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from rsqa_pipeline.records import Message


@dataclass(frozen=True)
class Group:
    """Texts that compete for the same image and context.

    Example: ``Group("images.tar#512+4311", [{"role": "user", "content": "How many ships are there?"}], ["3",
        "5"])``.
    """

    image: str | Image.Image | None
    """Reference or decoded image; None for text-only candidates."""
    context: Sequence[Message]
    """Turns before the candidate; empty for captions."""
    candidates: Sequence[str]
    """Texts of the assistant's last turn."""


@dataclass(frozen=True)
class Score:
    """One candidate's score, or why there is none. Exactly one of the two is given."""

    value: float | None
    reason: str | None = None
    """One of a few words, to count by: the reason of an `ImageFault`, ``no_candidate``, ``not_finite``."""
    detail: str | None = None
    note: str | None = None
    """What was done to score it all the same: ``text_cut``, ``image_downscaled``, or both with a comma between."""
