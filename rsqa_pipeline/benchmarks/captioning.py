"""How close a caption is to the reference captions of its image."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNIT = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+")


class UnicodeTokenizer(Tokenizer):
    """Words of any script, lower case and NFC; characters in scripts that put no space between words.

    ASCII text gives the tokens of rouge_score's own tokenizer, which drops every other letter.
    """

    def tokenize(self, text: str) -> list[str]:
        found: list[str] = _UNIT.findall(unicodedata.normalize("NFC", text).lower())
        return found


_ROUGE = RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())


def rouge_l(reply: str | None, references: Sequence[str]) -> float:
    """ROUGE-L F1 (longest common subsequence of words) against the best reference, in [0, 1]; 0 for no reply.

    A reply that equals a reference has 1, even if it holds no word.
    """
    if not reply or not reply.strip():
        return 0.0
    if reply.strip() in (reference.strip() for reference in references):
        return 1.0
    return float(max(_ROUGE.score(reference, reply)["rougeL"].fmeasure for reference in references))


def other_caption_level(references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L of fluent captions written without looking: each image gets the first caption of the next image."""
    shifted = [*references[1:], references[0]]
    return sum(rouge_l(other[0], own) for own, other in zip(references, shifted, strict=True)) / len(references)
