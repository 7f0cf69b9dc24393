"""Images opened and prepared in background threads, a bounded number of them ahead of their use."""

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
from rsqa_pipeline.score_model.inputs.encoder import ContextTooLongError, Encoder, Row
from rsqa_pipeline.score_model.inputs.sequences import Pixels, Place, TokenSequence

T = TypeVar("T")
LOOK_AHEAD = 32
"""Images prepared, or in preparation, that no batch has taken yet. One of 256 tokens holds 5 MB."""
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Shown:
    """Candidates that show one image, or one candidate without."""

    image: str | Image.Image | None
    rows: dict[Place, Row]


@dataclass(frozen=True)
class Prepared:
    """Candidates ready for a batch, and why the others of their image have no score."""

    sequences: list[TokenSequence]
    refused: dict[Place, Score]


def prepared_ahead(encoder: Encoder, shown: Iterable[Shown], most: int) -> Iterator[Prepared]:
    """Each of ``shown`` in order, prepared in background threads.

    Args:
        most: tokens of a sequence at most, if it has several candidates.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="image", initializer=_give_way)
    waiting: deque[Future[Prepared]] = deque()
    try:
        for one in shown:
            waiting.append(pool.submit(prepare, encoder, one, most))
            if len(waiting) == LOOK_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _give_way() -> None:
    """Puts this thread behind the model's, which all wait where one of them does."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 10)


def prepare(encoder: Encoder, shown: Shown, most: int, image_tokens: int | None = None) -> Prepared:
    """Opens the image and lays its candidates out.

    Where image and context leave a candidate no place in the model's context, the image gets half of what the context
    leaves, so that every candidate of a context sees the same image.

    Args:
        most: as `prepared_ahead`.
        image_tokens: of the image at most; by default as many as the image processor gives it.
    """
    refused: dict[Place, Score] = {}
    pixels: Pixels | None = None
    if shown.image is not None:
        found = pixels_or_reason(encoder, shown.image, image_tokens)
        if isinstance(found, Score):
            return Prepared([], dict.fromkeys(shown.rows, found))
        pixels = found
    fitting: dict[Place, Row] = {}
    crowded: dict[int, dict[Place, Row]] = {}
    for place, row in shown.rows.items():
        left = encoder.max_length - row.prompt
        fits = left > (len(pixels.tokens) - 1 if pixels is not None else 0)
        (fitting if fits else crowded.setdefault(left, {}))[place] = row
    sequences = encoder.sequences(fitting, pixels, most) if fitting else []
    for left, rows in crowded.items():
        smaller = pixels_or_reason(encoder, shown.image, left // 2) if shown.image is not None else _no_place(left)
        if isinstance(smaller, Score):
            refused |= dict.fromkeys(rows, smaller)
        else:
            sequences += encoder.sequences(rows, smaller, most)
    return Prepared(sequences, refused)


def pixels_or_reason(encoder: Encoder, image: str | Image.Image, most: int | None = None) -> Pixels | Score:
    """As `Encoder.pixels`, or why there are none."""
    try:
        return encoder.pixels(image, most)
    except ImageFault as fault:
        return Score(None, fault.reason, fault.detail)
    except ContextTooLongError as error:
        return Score(None, "context_too_long", str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return Score(None, "out_of_memory", f"no memory to prepare the image: {error}")


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, a GPU's or the machine's, as far as that is told by an exception."""
    no_primitive = isinstance(error, RuntimeError) and "could not create a primitive" in str(error)  # oneDNN's words
    return isinstance(error, MemoryError) or no_primitive or should_reduce_batch_size(error)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; each is made in a background thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        following = pool.submit(_next, items)
        while (found := following.result()) is not None:
            following = pool.submit(_next, items)
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


def _no_place(left: int) -> Score:
    return Score(None, "context_too_long", f"the context's own tokens leave {max(left, 0)} places for the text")
