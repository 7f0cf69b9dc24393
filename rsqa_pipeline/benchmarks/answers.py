"""Asks a VLM the items of a task and marks what it says. Serves the benchmark and best of N alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsqa_pipeline.benchmarks import vqa
from rsqa_pipeline.benchmarks.captioning import rouge_l
from rsqa_pipeline.benchmarks.grounding import is_hit
from rsqa_pipeline.benchmarks.task import BenchmarkTask
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message

_BATCHES_OPEN = 8
"""Batches whose images are held in memory together."""


def context_of(task: BenchmarkTask, item: dict[str, Any]) -> list[Message]:
    """The user's turn: the task's prompt with the item's question and lettered choices."""
    choices = vqa.choice_lines(item["choices"] or [])
    text = task.prompts[0].replace("{choices}", choices).replace("{question}", item["question"] or "")
    return [Message(role="user", content=text)]


def mark(task: BenchmarkTask, item: dict[str, Any], reply: str | None) -> float:
    """The mark of a reply by the task's rule, in [0, 1]; a missing or unreadable one gets 0."""
    return rouge_l(reply, item["captions"]) if task.reply == "caption" else float(is_right(task, item, reply))


def is_right(task: BenchmarkTask, item: dict[str, Any], reply: str | None) -> bool:
    """Whether a reply is right, for tasks where it is or is not; a missing or unreadable one is wrong."""
    match task.reply:
        case "word":
            return vqa.is_correct(reply, item["answer"])
        case "letter":
            return vqa.is_letter_correct(reply, item["answer"])
        case "box":
            return is_hit(reply, item["boxes"])
        case "ranking" | "caption":
            raise ValueError(f"task {task.name} has no right or wrong replies")


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
    """``samples`` replies to each context about its image, greedy unless ``sampling`` is given.

    Questions of one length are asked together, so that little is padding; replies come in the contexts' order.

    Args:
        contexts: chats that end with the user's turn.
        references: image of each. Raises ImageFault where one cannot be opened.
        batch_size: contexts at once.
    """
    texts = [context[-1]["content"] for context in contexts]
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place], place))
    replies: list[list[str]] = [[] for _ in texts]
    for start in range(0, len(order), _BATCHES_OPEN * batch_size):
        places = order[start : start + _BATCHES_OPEN * batch_size]
        chats = [contexts[place] for place in places]
        images = [open_image(references[place]) for place in places]
        said = generate(vlm, chats, images, sampling, max_new_tokens, batch_size, seed + start, samples)
        for place, answers in zip(places, said, strict=True):
            replies[place] = answers
    return replies
