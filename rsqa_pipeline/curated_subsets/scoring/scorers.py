"""Scorers of a corpus, and specifications from which each worker process loads its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.profile.curated_subsets import ClipText


class CorpusScorer(Protocol):
    """Scores groups of texts."""

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]: ...


class ScorerSpec(Protocol):
    """Identifies a scorer without loading it. Picklable, so that each worker loads its own."""

    @property
    def version(self) -> str:
        """Stored with every score: equal for equal weights (and variant), different for others."""
        ...

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]: ...

    def load(self, worker: int) -> CorpusScorer:
        """
        Args:
            worker: number of the process on its machine; several processes are distributed over the GPUs.
        """
        ...


@dataclass(frozen=True)
class ModelSpec:
    """The scorer of the score model or of CLIP, from a folder or hub id."""

    kind: Literal["score_model", "clip"]
    path: str
    compute: Compute
    batch_size: int
    """Images or texts per batch of CLIP; the score model uses ``compute.batch_tokens``."""
    clip_text: ClipText = "truncate"
    """How CLIP handles a text longer than its context."""
    embeddings: Path | None = None
    """Folder where CLIP's image vectors are cached, by image hash."""

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        return self.compute.device

    @cached_property
    def version(self) -> str:
        """Hash of the weights, followed by ".windowed_mean" if CLIP reads long texts that way."""
        from rsqa_pipeline.models.load import local_folder, weights_version

        weights = weights_version(local_folder(self.path))
        return f"{weights}.windowed_mean" if self.kind == "clip" and self.clip_text == "windowed_mean" else weights

    def load(self, worker: int) -> CorpusScorer:
        """Loads the scorer. Raises ModelError if the checkpoint cannot be used."""
        import torch  # takes seconds to import, and the number of threads must be set before

        if torch.cuda.is_available() and self.device != "cpu":
            torch.cuda.set_device(worker % torch.cuda.device_count())
        from rsqa_pipeline.models.clip_score import ClipScorer
        from rsqa_pipeline.score_model.scoring.scorer import Scorer

        if self.kind == "score_model":
            return Scorer.load(self.path, self.compute)
        return ClipScorer.load(self.path, self.compute, self.batch_size, self.clip_text, self.embeddings)
