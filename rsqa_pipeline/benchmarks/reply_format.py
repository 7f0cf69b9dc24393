"""How a model is prompted and how its answer is read: plainly, or with the reasoning that a policy was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rsqa_pipeline.benchmarks.task import BenchmarkTask
from rsqa_pipeline.boxes import BoxError, in_pixels
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import Boxes
from rsqa_pipeline.records import Message
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.rewards import read_answer

REASONING_FACTOR = 6
"""Maximum length of a reply with reasoning, as a multiple of a plain reply."""


@dataclass(frozen=True)
class ReplyFormat:
    """How a model is prompted and how its answer is read."""

    prompt: Callable[[Sequence[Message]], list[Message]]
    """Question -> prompt."""
    read: Callable[[str], str | None]
    """Whole reply -> the answer in it, None if there is none."""
    length_factor: int
    """Maximum length of a reply, as a multiple of a plain answer."""
    boxes: Boxes | None = None
    """How the model writes boxes; None: in pixels of the stored image."""

    def answer(self, reply: str, task: BenchmarkTask, item: dict[str, Any]) -> str | None:
        """The answer in a reply to an item, boxes in pixels; None if there is none, or a box that the model's
        declared form rules out."""
        answer = self.read(reply)
        if answer is None or self.boxes is None or task.source != "grounding":
            return answer
        try:
            return in_pixels(answer, open_image(item["image"]).size, self.boxes.unit, self.boxes.order)
        except BoxError:
            return None


PLAIN = ReplyFormat(list, str, 1)
REASONING = ReplyFormat(reasoning_prompt, read_answer, REASONING_FACTOR)
