"""Writes the boxes of a source's texts in one form, ``[x0, y0, x1, y1]`` in pixels of the stored image."""

from __future__ import annotations

import re
from dataclasses import replace

from rsqa_pipeline.boxes import BoxError, has_box, in_pixels, is_only_boxes, is_own_form
from rsqa_pipeline.profile import Boxes
from rsqa_pipeline.records import Message
from rsqa_pipeline.source_pairs.source_row import SourceRow

_PIXELS = Boxes(unit="pixels")
_SETTING = "declare their unit in the source's settings, e.g. boxes: {unit: 0..100}"


def with_pixel_boxes(row: SourceRow, size: tuple[int, int], boxes: Boxes | None) -> SourceRow:
    """Returns the row with every box in pixels.

    With ``boxes``, all turns are rewritten, and a row without a task whose last answer is boxes alone has the task
    ``grounding``. Without, only the answers of task ``grounding`` are read, as pixels.

    Args:
        size: width and height of the image in pixels.
        boxes: how the source writes boxes; None if the profile does not say so.

    Raises:
        BoxError: see `boxes.in_pixels`; also for boxes of another form than the project's whose unit is not declared,
            and for numbers in an answer of task ``grounding`` that are not boxes.
    """
    if boxes is None and row.task != "grounding":
        return row
    form = boxes or _PIXELS

    def rewrite(message: Message) -> Message:
        if boxes is None and message["role"] != "assistant":
            return message
        text = message["content"]
        if boxes is None and not is_own_form(text):
            raise BoxError(f"boxes of another form than [x0, y0, x1, y1]; {_SETTING}: {text[:100]}")
        return {"role": message["role"], "content": in_pixels(text, size, form.unit, form.order)}

    messages = [rewrite(message) for message in row.messages]
    answer = messages[-1]["content"]
    task = "grounding" if row.task == "open" and is_only_boxes(answer) else row.task
    if task == "grounding" and re.search(r"\d", answer) and not has_box(answer):
        raise BoxError(f"no box in a known form: {answer[:100]}")
    return replace(row, messages=messages, task=task)
