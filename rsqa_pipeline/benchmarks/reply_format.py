"""How a model is prompted and how its answer is read: plainly, or with the reasoning that a policy was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image

from rsqa_pipeline.benchmarks.task import BenchmarkTask
from rsqa_pipeline.boxes import BoxError, Frame, in_pixels
from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.families import family_of
from rsqa_pipeline.models.image_inputs import box_frame
from rsqa_pipeline.models.load import Vlm
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
    frame: Callable[[Image.Image], Frame] | None = None
    """What the boxes about an image refer to; None: the image."""

    def answer(self, reply: str, task: BenchmarkTask, item: dict[str, Any]) -> str | None:
        """The answer in a reply to an item, boxes in pixels; None if there is none, or a box that the model's
        declared form rules out."""
        answer = self.read(reply)
        if answer is None or self.boxes is None or task.source != "grounding":
            return answer
        image = open_image(item["image"])
        frame = None if self.frame is None else self.frame(image)
        try:
            return in_pixels(answer, image.size, self.boxes.unit, self.boxes.order, frame)
        except BoxError:
            return None


PLAIN = ReplyFormat(list, str, 1)
REASONING = ReplyFormat(reasoning_prompt, read_answer, REASONING_FACTOR)


def with_boxes_of_family(vlm: Vlm) -> ReplyFormat:
    """`PLAIN` with boxes as the VLM's family was trained to write them.

    Raises:
        ModelError: it was not.
    """
    form = family_of(vlm.model).boxes
    if form is None:
        raise ModelError(
            f"models of type {vlm.model.config.model_type} have no boxes of their own; declare a unit in "
            "benchmarks.reply_boxes, or none for pixels of the stored image"
        )
    return replace(PLAIN, boxes=form.boxes, frame=partial(box_frame, vlm.processor, form))
