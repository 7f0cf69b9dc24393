"""Asks a VLM the items of a task and marks what it says. Serves the benchmark and best of N alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rsqa_pipeline.benchmarks import vqa
from rsqa_pipeline.benchmarks.grounding import is_hit
from rsqa_pipeline.benchmarks.task import BenchmarkTask
from rsqa_pipeline.images import open_image
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile import Sampling
from rsqa_pipeline.records import Message

_BATCHES_OPEN = 8
"""Batches whose images are held in memory together."""


def question_of(task: BenchmarkTask, item: dict[str, Any]) -> str:
    """The user's turn: the task's prompt with the item's question and lettered choices."""
    prompt = task.prompts[0].replace("{choices}", vqa.choice_lines(item["choices"] or []))
    return prompt.replace("{question}", item["question"] or "").strip()


def is_right(task: BenchmarkTask, item: dict[str, Any], reply: str | None) -> bool:
    """The mark of a reply by the task's rule; a missing or unreadable one is wrong."""
    match task.reply:
        case "word":
            return vqa.is_correct(reply, item["answer"])
        case "letter":
            return vqa.is_letter_correct(reply, item["answer"])
        case "box":
            return is_hit(reply, item["boxes"])
        case "ranking":
            raise ValueError(f"task {task.name} marks rankings, not replies")


def ask(
    vlm: Vlm,
    questions: Sequence[str],
    references: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    sampling: Sampling | None = None,
    samples: int = 1,
) -> list[list[str]]:
    """``samples`` replies to each question about its image, greedy unless ``sampling`` is given.

    Questions of one length are asked together, so that little is padding; replies come in the questions'
    order.

    Args:
        references: image of each question. Raises ImageFault where one cannot be opened.
        batch_size: questions at once.
    """
    order = sorted(range(len(questions)), key=lambda place: (len(questions[place]), questions[place], place))
    replies: list[list[str]] = [[] for _ in questions]
    for start in range(0, len(order), _BATCHES_OPEN * batch_size):
        places = order[start : start + _BATCHES_OPEN * batch_size]
        chats = [[Message(role="user", content=questions[place])] for place in places]
        images = [open_image(references[place]) for place in places]
        said = generate(vlm, chats, images, sampling, max_new_tokens, batch_size, seed + start, samples)
        for place, texts in zip(places, said, strict=True):
            replies[place] = texts
    return replies


Reader = Callable[[str], str | None]
"""From a whole reply to the answer in it, None where there is none."""


def plain_answer(reply: str) -> str | None:
    """The whole reply is the answer."""
    return reply
