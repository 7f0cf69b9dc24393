"""Scores in full what a first pass leaves: the scorer of ``rsqa score --adaptive``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsqa_pipeline.curated_subsets.scoring.first_pass import CANNOT_BE_KEPT, Bound, FirstPass
from rsqa_pipeline.curated_subsets.scoring.scorers import CorpusScorer, ModelSpec
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.records import Message, canonical_messages, sha256
from rsqa_pipeline.score_model.additions import kind_of
from rsqa_pipeline.score_model.scoring.first_layers import Exit, FirstLayers
from rsqa_pipeline.score_model.scoring.scorer import Scorer


@dataclass(frozen=True)
class AfterFirstPassSpec:
    """A score model with a first pass before it. Its version is the model's: the scores are the same."""

    model: ModelSpec
    first_pass: Path

    @property
    def version(self) -> str:
        return self.model.version

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        return self.model.device

    def load(self, worker: int) -> CorpusScorer:
        scorer = self.model.load(worker)
        assert isinstance(scorer, Scorer)
        return ScorerAfterFirstPass(scorer, FirstPass.read(self.first_pass))


class ScorerAfterFirstPass:
    """Runs the first pass on all candidates and the scorer on those that it leaves."""

    def __init__(self, scorer: Scorer, first_pass: FirstPass) -> None:
        self._scorer, self._bounds = scorer, first_pass.bounds
        self._first_layers = FirstLayers(scorer, Exit(first_pass.layers, first_pass.image_share))

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        """As `Scorer.score_or_reason`, with the reason `CANNOT_BE_KEPT` for what is dropped.

        A candidate that the first layers cannot run is left to the scorer, which gives the reason.
        """
        dropped = self._dropped(groups)
        remaining = [
            ScoringGroup(group.image, group.context, [t for c, t in enumerate(group.candidates) if c not in without])
            for group, without in zip(groups, dropped, strict=True)
        ]
        scored = iter(self._scorer.score_or_reason([group for group in remaining if group.candidates]))
        found = []
        for group, without, left in zip(groups, dropped, remaining, strict=True):
            scores = iter(next(scored) if left.candidates else [])
            found.append([without[c] if c in without else next(scores) for c in range(len(group.candidates))])
        return found

    def _dropped(self, groups: Sequence[ScoringGroup]) -> list[dict[int, Score]]:
        """The candidates of each group that cannot be kept, by position."""
        states, rows = self._first_layers.states(groups)
        found: list[dict[int, Score]] = []
        for group, of_group in zip(groups, rows, strict=True):
            bound, without = self._bounds[kind_of(group.context)], dict[int, Score]()
            for c, row in enumerate(of_group):
                if row is not None and bound.cut is not None:
                    predicted = float(bound.predict(states[row]))
                    if predicted < bound.cut:
                        without[c] = _refused(group, group.candidates[c], predicted, bound)
            found.append(without)
        return found


def _refused(group: ScoringGroup, text: str, predicted: float, bound: Bound) -> Score:
    """Its detail starts with the text's hash, so that a text that has changed since is recognized."""
    text_hash = sha256(canonical_messages([*group.context, Message(role="assistant", content=text)]))
    detail = f"{text_hash}: the first pass predicts {predicted:.4g}; from {bound.cut:.4g} on, rows are scored in full"
    return Score(None, CANNOT_BE_KEPT, detail)
