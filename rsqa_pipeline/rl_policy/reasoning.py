"""The instruction to reason and the example reasoning texts. They are frozen: a changed text is a different policy."""

from __future__ import annotations

from collections.abc import Sequence

from rsqa_pipeline.records import Message

INSTRUCTION = "Think inside <think> </think>, then answer inside <answer> </answer>."

THOUGHTS = {
    "scene_class": "the land cover and the objects show the class of scene.",
    "presence": "i look for the objects in this image.",
    "count": "i count the objects in this image.",
    "comparison": "i count the one, then the other.",
    "rural_urban": "i look at the land cover.",
    "grounding": "i look for the object and its box.",
    "choice": "i look at this image and at each choice.",
    "open": "i look at the objects, their colours and places.",
}
"""Reasoning text per task, used to train the policy before GRPO."""

ANY_THOUGHT = "i look at this image."


def reasoning_prompt(context: Sequence[Message]) -> list[Message]:
    """The turns before an answer, with the instruction to reason added to the last question.

    Example: "How many ships are there?" becomes "How many ships are there? Think inside <think> </think>, ...".
    """
    *before, question = context
    return [*before, Message(role=question["role"], content=f"{question['content']} {INSTRUCTION}")]


def reasoned_answer(task: str, answer: str) -> str:
    """An answer in the format that is rewarded, with the fixed reasoning text of its task."""
    return f"<think>{THOUGHTS.get(task, ANY_THOUGHT)}</think><answer>{answer}</answer>"
