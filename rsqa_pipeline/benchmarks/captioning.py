"""How close a caption is to the reference captions of its image."""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

_ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(reply: str | None, references: Sequence[str]) -> float:
    """ROUGE-L F1 (longest common subsequence of words) against the best reference, in [0, 1]; 0 for no reply."""
    if not reply or not reply.strip():
        return 0.0
    return float(max(_ROUGE.score(reference, reply)["rougeL"].fmeasure for reference in references))


def other_caption_level(references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L of fluent captions written without looking: each image gets the first caption of the next image."""
    shifted = [*references[1:], references[0]]
    return sum(rouge_l(other[0], own) for own, other in zip(references, shifted, strict=True)) / len(references)
