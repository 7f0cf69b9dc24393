"""Opens and prepares images in background threads, a bounded number ahead of their use."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image

from rsqa_pipeline.images.decode import ImageFault
from rsqa_pipeline.models.scoring_group import Score
from rsqa_pipeline.score_model.inputs.encoder import CandidateRow, ChatEncoder, ContextTooLongError
from rsqa_pipeline.score_model.inputs.sequences import CandidateIndex, Pixels, TokenSequence

T = TypeVar("T")
LOOK_AHEAD = 32
"""Images prepared, or in preparation, that no batch has taken yet. An image of 256 tokens takes 5 MB."""
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class CandidatesOfImage:
    """Candidates that show one image, or one candidate without an image."""

    image: str | Image.Image | None
    rows: dict[CandidateIndex, CandidateRow]


@dataclass(frozen=True)
class Prepared:
    """Candidates ready for a batch, and why the other candidates of their image have no score."""

    sequences: list[TokenSequence]
    refused: dict[CandidateIndex, Score]


def prepare_ahead(encoder: ChatEncoder, images: Iterable[CandidatesOfImage], max_tokens: int) -> Iterator[Prepared]:
    """Prepares each of ``images`` in background threads, in order.

    Args:
        max_tokens: limit for a sequence with several candidates.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="image", initializer=_lower_priority)
    waiting: deque[Future[Prepared]] = deque()
    try:
        for candidates in images:
            waiting.append(pool.submit(prepare, encoder, candidates, max_tokens))
            if len(waiting) == LOOK_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _lower_priority() -> None:
    """Lowers this thread's priority so that it never delays the model's threads, which wait for each other."""
    if sys.platform == "linux":  # elsewhere this would affect the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 10)


def prepare(
    encoder: ChatEncoder, candidates: CandidatesOfImage, max_tokens: int, image_tokens: int | None = None
) -> Prepared:
    """Opens the image and lays out its candidates.

    Where image and context leave a candidate no room in the model's context, the image is reduced to half of the tokens
    that the context leaves. So every candidate of a context sees the same image.

    Args:
        max_tokens: as in `prepare_ahead`.
        image_tokens: maximum for the image; by default the image processor decides.
    """
    refused: dict[CandidateIndex, Score] = {}
    pixels: Pixels | None = None
    if candidates.image is not None:
        found = pixels_or_reason(encoder, candidates.image, image_tokens)
        if isinstance(found, Score):
            return Prepared([], dict.fromkeys(candidates.rows, found))
        pixels = found
    fitting: dict[CandidateIndex, CandidateRow] = {}
    too_long: dict[int, dict[CandidateIndex, CandidateRow]] = {}
    for index, row in candidates.rows.items():
        left = encoder.max_length - row.prompt
        fits = left > (len(pixels.tokens) - 1 if pixels is not None else 0)
        (fitting if fits else too_long.setdefault(left, {}))[index] = row
    sequences = encoder.sequences(fitting, pixels, max_tokens) if fitting else []
    for left, rows in too_long.items():
        smaller = (
            pixels_or_reason(encoder, candidates.image, left // 2) if candidates.image is not None else _no_room(left)
        )
        if isinstance(smaller, Score):
            refused |= dict.fromkeys(rows, smaller)
        else:
            sequences += encoder.sequences(rows, smaller, max_tokens)
    return Prepared(sequences, refused)


def pixels_or_reason(encoder: ChatEncoder, image: str | Image.Image, max_tokens: int | None = None) -> Pixels | Score:
    """As `ChatEncoder.pixels`, or the reason why the image cannot be used."""
    try:
        return encoder.pixels(image, max_tokens)
    except ImageFault as fault:
        return Score(None, fault.reason, fault.detail)
    except ContextTooLongError as error:
        return Score(None, "context_too_long", str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Score(None, "out_of_memory", f"no memory to prepare the image: {error}")


def out_of_memory(error: Exception) -> bool:
    """Whether the exception means that a GPU's or the machine's memory ran out."""
    no_primitive = isinstance(error, RuntimeError) and "could not create a primitive" in str(error)  # message of oneDNN
    return isinstance(error, MemoryError) or no_primitive or should_reduce_batch_size(error)


def prefetch_one(items: Iterator[T]) -> Iterator[T]:
    """The same items; each is made in a background thread while the previous one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        following = pool.submit(_next, items)
        while (found := following.result()) is not None:
            following = pool.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


def _no_room(left: int) -> Score:
    return Score(None, "context_too_long", f"the context's own tokens leave {max(left, 0)} places for the text")
