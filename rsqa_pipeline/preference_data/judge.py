"""Judges give texts marks on the five quality dimensions, 1 (poor) to 5 (excellent) (paper, quality dimensions).

A judge that is a model is `model_judge.ModelJudge`. The two judges here know the truth and add noise to it, so that
they
agree with the truth as often as the paper's judge agreed with people (926 of 1,000). The noise on a text depends only
on that text, never on what was judged before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np

from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate
from rsqa_pipeline.profile.preference_data import PreferenceData
from rsqa_pipeline.records import Message, canonical_messages, sha256
from rsqa_pipeline.scenes.marks import Marks, mark_answer, mark_caption
from rsqa_pipeline.scenes.truth import sample_scene

MIN_MARK, MAX_MARK = 1.0, 5.0
"""Range of every mark."""


@dataclass(frozen=True)
class JudgeRequest:
    """A text to mark: a caption where ``context`` is empty, else the answer to the context's last question."""

    image_id: str
    context: tuple[Message, ...]
    text: str
    image: str | None = None
    """Reference of the image, for a judge that uses it."""


@dataclass(frozen=True)
class Judgement:
    """A judge's reply: five marks, or why there are none."""

    marks: Marks | None
    true_mark: float | None = None
    """Mean mark without the judge's noise; None if the judge does not know the truth."""
    reason: str = ""
    """Why there are no marks, as one word that is counted; empty if there are marks."""
    detail: str = ""
    version: str = ""
    """Version of the model that gave the marks: hash of its weights, or the version that its server reports."""


class Judge(Protocol):
    """Marks texts. A reply that cannot be read gives a `Judgement` without marks, never a default mark."""

    name: str
    """Name and version, stored with every pair."""

    def mark(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        """One judgement per request, in order. Judgements do not depend on each other."""


class TruthGraphJudge:
    """Marks texts by the truth of the image's scene, with Gaussian noise on every mark."""

    def __init__(self, scenes: Mapping[str, int], noise: float, seed: int) -> None:
        """
        Args:
            scenes: image_id -> seed of the image's scene.
            noise: standard deviation added to each of the five marks; 0 gives the truth.
        """
        self.name = f"truth_graph noise={noise:g}"
        self._scenes, self._noise, self._seed = scenes, noise, seed

    def mark(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        return [self._mark(request) for request in requests]

    def _mark(self, request: JudgeRequest) -> Judgement:
        if request.image_id not in self._scenes:
            return Judgement(None, reason="unknown_scene", detail=f"no scene is known for image {request.image_id}")
        if not request.text.strip():
            return Judgement(None, reason="empty_text", detail="the text has no visible character")
        truth = sample_scene(self._scenes[request.image_id])
        questions = [turn["content"] for turn in request.context if turn["role"] == "user"]
        marks = mark_answer(truth, questions[-1], request.text) if questions else mark_caption(truth, request.text)
        return Judgement(noisy(marks, self._noise, self._seed, request), marks.mean)


FAULT_MARKS: dict[str, Marks] = {
    NO_FAULT: Marks(relevance=5.0, specificity=5.0, completeness=5.0, clarity=5.0, richness=5.0),
    "vague": Marks(relevance=5.0, specificity=1.0, completeness=2.0, clarity=5.0, richness=2.0),
    "count_change": Marks(relevance=1.0, specificity=2.5, completeness=2.5, clarity=4.5, richness=2.0),
    "class_swap": Marks(relevance=1.0, specificity=1.0, completeness=1.0, clarity=3.5, richness=1.0),
    "wrong_image": Marks(relevance=1.0, specificity=1.0, completeness=1.0, clarity=1.0, richness=1.0),
}
"""Marks of a text by the corruption injected into it. Their means are `corruption.TRUE_QUALITY`, so that the judge
orders texts in the same way as the corpus' own true quality."""


class RecordedCorruptionJudge:
    """Marks texts by their recorded corruption, with Gaussian noise on every mark."""

    def __init__(self, faults: Mapping[tuple[str, str], str], noise: float, seed: int) -> None:
        """
        Args:
            faults: (image_id, text) -> kind of corruption, ``NO_FAULT`` for a text as people wrote it.
            noise: standard deviation added to each of the five marks.
        """
        self.name = f"recorded_corruption noise={noise:g}"
        self._faults, self._noise, self._seed = faults, noise, seed

    def mark(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        return [self._mark(request) for request in requests]

    def _mark(self, request: JudgeRequest) -> Judgement:
        fault = self._faults.get((request.image_id, request.text))
        if fault not in FAULT_MARKS:
            return Judgement(
                None, reason="unknown_fault", detail=f"no corruption is recorded for {request.text[:80]!r}"
            )
        marks = FAULT_MARKS[fault]
        return Judgement(noisy(marks, self._noise, self._seed, request), marks.mean)


def truth_judge(
    settings: PreferenceData, scenes: Mapping[str, int], candidates: Sequence[Candidate], seed: int
) -> Judge:
    """The judge that the profile names, if it is one that knows the truth (`TRUTH_JUDGES`).

    Args:
        scenes: image_id -> scene seed, for the truth-graph judge.
        candidates: texts with their recorded faults, for the recorded-corruption judge. A text that is both
            uncorrupted and, by chance, the result of a corruption counts as uncorrupted.
    """
    if settings.judge == "truth_graph":
        return TruthGraphJudge(scenes, settings.judge_noise, seed)
    faults: dict[tuple[str, str], str] = {}
    for candidate in candidates:
        key = (candidate.subject.image_id, candidate.text)
        if candidate.fault is not None and faults.get(key) != NO_FAULT:
            faults[key] = candidate.fault
    return RecordedCorruptionJudge(faults, settings.judge_noise, seed)


def noisy(marks: Marks, noise: float, seed: int, request: JudgeRequest) -> Marks:
    """The marks with Gaussian noise of standard deviation ``noise`` on each, clipped to 1..5.

    The generator is seeded by (seed, image, context, text), so the same text gets the same marks in any order.
    """
    key = sha256(str(seed), request.image_id, canonical_messages(request.context), request.text)
    draws = np.random.default_rng(int(key[:16], 16)).normal(0.0, 1.0, size=5) * noise
    values = np.clip(np.asarray(astuple(marks)) + draws, MIN_MARK, MAX_MARK)
    return Marks(*(float(value) for value in values))
