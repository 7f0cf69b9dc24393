"""Batching: what waits is scored together, and no request spoils another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from PIL import Image

from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.batching import BATCH_TEXTS, Batcher, DecodedQuestion
from rsqa_pipeline.serving.request_images import RequestImage


class HeldScorer:
    """A stub that scores a text with its length, once it is let go, and raises on "broken"; records its groups."""

    def __init__(self) -> None:
        self.calls: list[list[ScoringGroup]] = []
        self.taken, self.let_go = threading.Event(), threading.Event()

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        self.calls.append(list(groups))
        self.taken.set()
        self.let_go.wait()
        if any("broken" in group.candidates for group in groups):
            raise RuntimeError("a secret of the machine")
        return [[Score(float(len(text))) for text in group.candidates] for group in groups]


def asked(*texts: str, image: RequestImage | None = None) -> list[DecodedQuestion]:
    return [DecodedQuestion(image, [], texts)]


async def all_while_held(
    scorer: HeldScorer, batcher: Batcher, requests: list[list[DecodedQuestion]]
) -> list[list[Score]]:
    """Replies of requests that arrive while the replica is busy with one before them."""
    first = asyncio.create_task(batcher.score(asked("first")))
    await asyncio.to_thread(scorer.taken.wait)
    tasks = [asyncio.create_task(batcher.score(request)) for request in requests]
    await asyncio.sleep(0)
    scorer.let_go.set()
    await first
    return await asyncio.gather(*tasks)


def test_requests_that_wait_are_one_batch_and_equal_images_one_image() -> None:
    scorer, sizes = HeldScorer(), []
    batcher = Batcher([scorer], sizes.append)
    images = [RequestImage(Image.new("RGB", (8, 8)), "same") for _ in range(2)]
    requests = [asked("a", "bb", image=images[0]), asked("ccc", image=images[1]), asked("dddd")]
    replies = asyncio.run(all_while_held(scorer, batcher, requests))
    batcher.close()
    assert [[score.value for score in reply] for reply in replies] == [[1.0, 2.0], [3.0], [4.0]]
    assert sizes == [1, 4]
    assert scorer.calls[1][0].image is scorer.calls[1][1].image is images[0].pixels


def test_a_batch_is_bounded() -> None:
    scorer, sizes = HeldScorer(), []
    batcher = Batcher([scorer], sizes.append)
    asyncio.run(all_while_held(scorer, batcher, [asked(*["a"] * 100) for _ in range(5)]))
    batcher.close()
    assert max(sizes) <= BATCH_TEXTS and sum(sizes) == 501


def test_a_failed_scorer_is_a_missing_score_of_its_own_request_only() -> None:
    scorer = HeldScorer()
    batcher = Batcher([scorer], lambda _: None)
    good, broken = asyncio.run(all_while_held(scorer, batcher, [asked("abc"), asked("broken", "a")]))
    batcher.close()
    assert [score.value for score in good] == [3.0]
    assert [(score.value, score.reason) for score in broken] == [(None, "scorer_failed")] * 2
    assert "secret" not in str(broken)


def test_a_cancelled_request_is_not_scored() -> None:
    scorer = HeldScorer()
    batcher = Batcher([scorer], lambda _: None)

    async def cancel() -> None:
        first = asyncio.create_task(batcher.score(asked("first")))
        await asyncio.to_thread(scorer.taken.wait)
        second = asyncio.create_task(batcher.score(asked("second")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)  # the cancellation reaches the batcher's future
        scorer.let_go.set()
        await first

    asyncio.run(cancel())
    batcher.close()
    assert len(scorer.calls) == 1


def test_close_scores_what_waits() -> None:
    scorer = HeldScorer()
    batcher = Batcher([scorer], lambda _: None)

    async def close_early() -> list[list[Score]]:
        tasks = [asyncio.create_task(batcher.score(asked(text))) for text in ("a", "bb", "ccc")]
        await asyncio.to_thread(scorer.taken.wait)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        scorer.let_go.set()
        await closing
        return await asyncio.gather(*tasks)

    replies = asyncio.run(close_early())
    assert [score.value for reply in replies for score in reply] == [1.0, 2.0, 3.0]


def test_replicas_give_equal_scores(model: str, scorer: Scorer) -> None:
    import rsqa_pipeline

    batcher = Batcher([scorer, rsqa_pipeline.load_scorer(model, "cpu")], lambda _: None)

    async def ask() -> list[list[Score]]:
        return await asyncio.gather(*(batcher.score(asked("a ship in a harbour")) for _ in range(12)))

    values = [score.value for reply in asyncio.run(ask()) for score in reply]
    batcher.close()
    assert values == pytest.approx([values[0]] * 12, abs=1e-5)
