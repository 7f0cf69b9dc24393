"""Asks a VLM the items of a task and grades its replies. Used by the benchmark and by best of N."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from tqdm import tqdm

from rsqa_pipeline.answer_matching import canonical, chooses, contains_answer, read_letter, same_answer, same_letter
from rsqa_pipeline.benchmarks.captioning import rouge_l
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.benchmarks.task import BenchmarkTask, Metric, function_of
from rsqa_pipeline.boxes import any_box_hits, is_hit, read_one_box
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.images.references import split_raster
from rsqa_pipeline.models.generate import generate
from rsqa_pipeline.models.load import Vlm
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import Message, canonical_messages, sha256

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


READABLE: Mapping[str, Callable[[str | None], bool]] = {
    "same_answer": lambda reply: bool(canonical(reply or "")),
    "same_letter": lambda reply: read_letter(reply or "") is not None,
    "box_hit": lambda reply: read_one_box(reply) is not None,
    "rouge_l": lambda reply: bool(canonical(reply or "")),
}
"""Whether a reply states an answer at all, by the main marker of a task. An unreadable one is wrong, and counted."""


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
    order = by_length(contexts)
    replies: list[list[str]] = [[] for _ in contexts]
    for start in range(0, len(order), _MAX_OPEN_BATCHES * batch_size):
        indices = order[start : start + _MAX_OPEN_BATCHES * batch_size]
        chats = [contexts[index] for index in indices]
        images = [open_image(references[index]) for index in indices]
        generated = generate(vlm, chats, images, sampling, max_new_tokens, batch_size, seed + start, samples)
        for index, answers in zip(indices, generated, strict=True):
            replies[index] = answers
    return replies


def ask_once(
    vlm: Vlm,
    contexts: Sequence[Sequence[Message]],
    references: Sequence[str],
    keys: Sequence[str],
    kept: KeptReplies,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """One greedy reply per context, in their order; those that are kept are not generated, the others are then kept.

    Batches are those of `ask`, whatever is kept: a run that is resumed with the same batch size repeats whole batches.

    Args:
        keys: what each reply depends on, see `reply_key`.

    Raises:
        ImageFault: an image cannot be opened.
    """
    order = by_length(contexts)
    for start in tqdm(range(0, len(order), batch_size), desc="replies", unit="batch", leave=False, mininterval=1):
        missing = [index for index in order[start : start + batch_size] if keys[index] not in kept]
        if missing:
            chats = [contexts[index] for index in missing]
            images = [open_image(references[index]) for index in missing]
            replies = generate(vlm, chats, images, None, max_new_tokens, batch_size, 0)
            kept.keep({keys[index]: reply for index, (reply,) in zip(missing, replies, strict=True)})
    return [kept[key] for key in keys]


def by_length(contexts: Sequence[Sequence[Message]]) -> list[int]:
    """Positions of the contexts, similar lengths together."""
    texts = [context[-1]["content"] for context in contexts]
    return sorted(range(len(texts)), key=lambda index: (len(texts[index]), texts[index], index))


def reply_key(item: dict[str, Any], context: Sequence[Message], model: str, decoding: Mapping[str, Any]) -> str:
    """Hash of all that a greedy reply depends on: the image's bytes and how they are shown, the item, the prompt with
    its template, the weights and the settings of decoding."""
    shown = repr(split_raster(item["image"])[1])
    return sha256(
        item["image_id"],
        shown,
        item["item_id"],
        canonical_messages(context),
        model,
        json.dumps(decoding, sort_keys=True),
    )
