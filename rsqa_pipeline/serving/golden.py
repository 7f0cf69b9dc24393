"""A fixed image with two texts, scored at the start and again for every readiness check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.batching import Batcher, DecodedQuestion
from rsqa_pipeline.serving.request_images import RequestImage

TEXTS = ("a green field beside a road", "three white ships in a harbour")
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Relative to the larger of 1 and the score, by the backbone's type: other requests may share the batch."""
REUSE_SECONDS = 1.0
"""Readiness checks within this time share one scoring."""


def golden_image() -> Image.Image:
    """Two colours that change over 64 x 64 pixels."""
    rows, columns = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([rows * 4, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8))


class GoldenSample:
    """The sample's scores at the start, and whether the server still gives them."""

    def __init__(self, scorers: Sequence[Scorer], dtype: str) -> None:
        """
        Raises:
            ModelError: a replica gives no score, or replicas give different ones.
        """
        image = golden_image()
        self._tolerance = TOLERANCE[dtype]
        self._question = DecodedQuestion(RequestImage(image, "golden"), [], TEXTS)
        self._checked_at, self._fault = float("-inf"), ""
        self._lock = asyncio.Lock()
        found = [scorer.score_or_reason([ScoringGroup(image, [], TEXTS)])[0] for scorer in scorers]
        self._expected = [score.value for score in found[0]]
        for scores in found:
            if reasons := [f"{score.reason}: {score.detail}" for score in scores if score.value is None]:
                raise ModelError(f"the model gives no score for the golden sample ({reasons[0]}); train it again")
            if fault := self._difference([score.value for score in scores]):
                raise ModelError(f"replicas of the model differ: {fault}")

    async def fault(self, batcher: Batcher) -> str:
        """Scores the sample as a request; empty if the scores are those of the start."""
        async with self._lock:
            if time.monotonic() - self._checked_at > REUSE_SECONDS:
                self._fault = self._difference([score.value for score in await batcher.score([self._question])])
                self._checked_at = time.monotonic()
            return self._fault

    def _difference(self, found: Sequence[float | None]) -> str:
        for value, expected in zip(found, self._expected, strict=True):
            if value is None or expected is None or abs(value - expected) > self._tolerance * max(1.0, abs(expected)):
                return f"the golden sample scored {value}, expected {expected}"
        return ""
