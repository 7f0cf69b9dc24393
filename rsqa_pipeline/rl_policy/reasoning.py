"""The texts that ask for reasoning and that show it. They are frozen: a changed text is a different policy."""

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
"""How an answer of each task is reached; what a policy says before any reward has shaped its reasoning."""

ANY_THOUGHT = "i look at this image."


def reasoning_prompt(context: Sequence[Message]) -> list[Message]:
    """The turns before an answer, the last question asking for reasoning.

    Example: "How many ships are there?" becomes "How many ships are there? Think inside <think> </think>, ...".
    """
    *before, question = context
    return [*before, Message(role=question["role"], content=f"{question['content']} {INSTRUCTION}")]


def reasoned_answer(task: str, answer: str) -> str:
    """An answer as the format reward wants it, its reasoning taken from the task alone."""
    return f"<think>{THOUGHTS.get(task, ANY_THOUGHT)}</think><answer>{answer}</answer>"
