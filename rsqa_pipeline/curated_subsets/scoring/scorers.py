"""What scores a corpus, and how a worker process gets one of its own."""

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
    """Says which scorer it is, without loading it; picklable, so that each worker loads its own."""

    @property
    def version(self) -> str:
        """Stands beside every score: the same for the same weights (and variant), another one for others."""
        ...

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]: ...

    def load(self, worker: int) -> CorpusScorer:
        """
        Args:
            worker: number of the process on its machine; several processes spread over the GPUs.
        """
        ...


@dataclass(frozen=True)
class ModelSpec:
    """The score model's scorer, or CLIP's, from a folder or hub id."""

    kind: Literal["score_model", "clip"]
    path: str
    compute: Compute
    batch_size: int
    """Images, and texts, that CLIP embeds at once; the score model's is ``compute.batch_tokens``."""
    clip_text: ClipText = "truncate"
    """What CLIP does with a text beyond its context."""
    embeddings: Path | None = None
    """Folder where CLIP's image vectors are kept, each by the image's hash."""

    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]:
        return self.compute.device

    @cached_property
    def version(self) -> str:
        """Hash of the weights; with ".windowed_mean" behind it where CLIP reads long texts so."""
        from rsqa_pipeline.models.load import local_folder, weights_version

        weights = weights_version(local_folder(self.path))
        return f"{weights}.windowed_mean" if self.kind == "clip" and self.clip_text == "windowed_mean" else weights

    def load(self, worker: int) -> CorpusScorer:
        """Raises ModelError where the checkpoint cannot be used."""
        import torch  # seconds to import, and not before the worker's number of threads is set

        if torch.cuda.is_available() and self.device != "cpu":
            torch.cuda.set_device(worker % torch.cuda.device_count())
        from rsqa_pipeline.models.clip_score import ClipScorer
        from rsqa_pipeline.score_model.scoring.scorer import Scorer

        if self.kind == "score_model":
            return Scorer.load(self.path, self.compute)
        return ClipScorer.load(self.path, self.compute, self.batch_size, self.clip_text, self.embeddings)
