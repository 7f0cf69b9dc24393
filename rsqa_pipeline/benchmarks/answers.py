"""Asks a VLM the items of a task and grades its replies. Used by the benchmark and by best of N."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rsqa_pipeline.answer_matching import chooses, contains_answer, same_answer, same_letter
from rsqa_pipeline.benchmarks.captioning import rouge_l
from rsqa_pipeline.benchmarks.task import BenchmarkTask, Metric, function_of
from rsqa_pipeline.boxes import any_box_hits, is_hit
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message

_MAX_OPEN_BATCHES = 8
"""Batches whose images are held in memory at the same time."""


def context_of(task: BenchmarkTask, item: dict[str, Any]) -> list[Message]:
    """The user turn: the task's prompt with the item's question and lettered choices."""
    choices = choice_lines(item["choices"] or [])
    text = task.prompts[0].replace("{choices}", choices).replace("{question}", item["question"] or "")
    return [Message(role="user", content=text)]


def choice_lines(choices: Sequence[str]) -> str:
    """``["river", "beach"]`` as ``"A. river\\nB. beach"``."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


MARKERS: Mapping[str, Callable[[str | None, dict[str, Any]], float]] = {
    "same_answer": lambda reply, item: float(same_answer(reply, item["answer"])),
    "same_letter": lambda reply, item: float(same_letter(reply, item["answer"])),
    "box_hit": lambda reply, item: float(is_hit(reply, item["boxes"])),
    "contains_answer": lambda reply, item: float(contains_answer(reply, item["answer"])),
    "letter_or_text": lambda reply, item: float(chooses(reply, item["answer"], item["choices"])),
    "any_box_hit": lambda reply, item: float(any_box_hits(reply, item["boxes"])),
    "rouge_l": lambda reply, item: rouge_l(reply, item["captions"]),
}
"""Mark in [0, 1] of a reply to an item, by name; 0 for a missing or unreadable reply."""


def mark(task: BenchmarkTask, item: dict[str, Any], reply: str | None, metric: Metric | None = None) -> float:
    """Mark of a reply by the marker of the task or of one of its metrics, in [0, 1].

    Raises:
        DataError: there is no such marker.
    """
    return function_of(task, "marker", MARKERS, metric)(reply, item)


def ask(
    vlm: Vlm,
    contexts: Sequence[Sequence[Message]],
    references: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    sampling: Sampling | None = None,
    samples: int = 1,
) -> list[list[str]]:
    """``samples`` replies per context about its image; greedy unless ``sampling`` is given.

    Contexts of similar length are batched together to reduce padding. Replies are in the order of the contexts.

    Args:
        contexts: chats that end with a user turn.
        references: image of each context.
        batch_size: contexts per batch.

    Raises:
        ImageFault: an image cannot be opened.
    """
    texts = [context[-1]["content"] for context in contexts]
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), texts[index], index))
    replies: list[list[str]] = [[] for _ in texts]
    for start in range(0, len(order), _MAX_OPEN_BATCHES * batch_size):
        indices = order[start : start + _MAX_OPEN_BATCHES * batch_size]
        chats = [contexts[index] for index in indices]
        images = [open_image(references[index]) for index in indices]
        generated = generate(vlm, chats, images, sampling, max_new_tokens, batch_size, seed + start, samples)
        for index, answers in zip(indices, generated, strict=True):
            replies[index] = answers
    return replies
