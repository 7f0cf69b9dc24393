"""Dynamic batching: a replica that is free scores all that waits, up to a number of texts, in one pass."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from PIL import Image

from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.records import Message
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.request_images import RequestImage

log = logging.getLogger(__name__)

BATCH_TEXTS = 256
"""Texts that a replica takes at once; the scorer divides them into batches of its own token budget."""
SCORER_FAILED = "scorer_failed"
"""Reason of a missing score, besides those of the scorer: it raised an exception, also for this request alone."""


@dataclass(frozen=True)
class DecodedQuestion:
    """Completions that answer the same context about the same image, which is decoded."""

    image: RequestImage | None
    context: Sequence[Message]
    completions: Sequence[str]


@dataclass
class _Waiting:
    questions: Sequence[DecodedQuestion]
    future: Future[list[Score]] = field(default_factory=Future)

    @property
    def texts(self) -> int:
        return sum(len(question.completions) for question in self.questions)


class Batcher:
    """Gives requests to the replicas, each of which has a thread.

    A request never waits for others to arrive: a batch is what arrived while the replicas were busy. Requests of a
    batch that show the same image have it encoded once.
    """

    def __init__(self, scorers: Sequence[Scorer], on_batch: Callable[[int], None]) -> None:
        """
        Args:
            on_batch: called with the number of texts of each batch.
        """
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._on_batch = on_batch
        self._threads = [
            threading.Thread(target=self._work, args=(scorer,), name=f"replica-{number}", daemon=True)
            for number, scorer in enumerate(scorers)
        ]
        for thread in self._threads:
            thread.start()

    async def score(self, questions: Sequence[DecodedQuestion]) -> list[Score]:
        """Scores of all completions, in order. A cancelled call is not scored if no replica has taken it yet."""
        waiting = _Waiting(questions)
        with self._changed:
            self._waiting.append(waiting)
            self._changed.notify()
        return await asyncio.wrap_future(waiting.future)

    def close(self) -> None:
        """Scores what waits, and ends the replicas' threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, scorer: Scorer) -> None:
        while batch := self._take():
            self._on_batch(sum(waiting.texts for waiting in batch))
            for waiting, scores in zip(batch, _score_together(scorer, batch), strict=True):
                waiting.future.set_result(scores)

    def _take(self) -> list[_Waiting]:
        """What waits, up to `BATCH_TEXTS` unless the first alone has more; empty once the batcher is closed."""
        taken: list[_Waiting] = []
        texts = 0
        with self._changed:
            while not taken:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if not self._waiting:
                    return []
                while self._waiting and (not taken or texts + self._waiting[0].texts <= BATCH_TEXTS):
                    waiting = self._waiting.popleft()
                    if waiting.future.set_running_or_notify_cancel():  # False: its client is gone
                        taken.append(waiting)
                        texts += waiting.texts
        return taken


def _score_together(scorer: Scorer, batch: Sequence[_Waiting]) -> list[list[Score]]:
    """Scores of each request. Where the scorer raises, each request is scored alone, so that none spoils another."""
    try:
        return _score(scorer, batch)
    except Exception:
        log.exception("the scorer failed on a batch of %d requests; scoring each alone", len(batch))
    alone: list[list[Score]] = []
    for waiting in batch:
        try:
            alone += _score(scorer, [waiting])
        except Exception as error:
            alone.append([Score(None, SCORER_FAILED, f"the scorer raised {type(error).__name__}")] * waiting.texts)
    return alone


def _score(scorer: Scorer, batch: Sequence[_Waiting]) -> list[list[Score]]:
    images: dict[str, Image.Image] = {}
    groups: list[ScoringGroup] = []
    for waiting in batch:
        for question in waiting.questions:
            image = question.image
            # the scorer encodes one image object once
            pixels = None if image is None else images.setdefault(image.digest, image.pixels)
            groups.append(ScoringGroup(pixels, question.context, question.completions))
    scores = iter(scorer.score_or_reason(groups))
    return [[score for _ in waiting.questions for score in next(scores)] for waiting in batch]
