"""Marks from the truth: `mark_caption` and `mark_answer` rate any text on the paper's five dimensions, 1..5."""

from rsqa_pipeline.scenes.answer_marks import correctness, mark_answer
from rsqa_pipeline.scenes.caption_marks import Marks, mark_caption

__all__ = ["Marks", "correctness", "mark_answer", "mark_caption"]
