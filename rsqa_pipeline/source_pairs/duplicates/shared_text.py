"""Finds texts of test items in training texts: the 13-word rule.

A training text contains a test item's text if they share 13 consecutive words, unless more than 10 training texts
contain the same 13 words: then they are a common phrase (Brown et al. 2020, appendix C). Shorter test texts, such as
"what class of scene is this?", do not identify an item; such items are identified by their images only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NGRAM_WORDS = 13
MAX_TEXTS_PER_NGRAM = 10


@dataclass(frozen=True)
class SharedText:
    """A training text that shares words with a test text."""

    text: int
    """Index of the training text."""
    test_text: int
    """Index of the test text."""
    share: float
    """Share of the training text's distinct 13-word sequences that are shared with the test text, in (0, 1]."""


def shared_texts(texts: Sequence[str], test_texts: Sequence[str]) -> list[SharedText]:
    """Returns every pair that shares 13 consecutive words, common phrases aside, in the order of the training texts."""
    holders: dict[tuple[str, ...], set[int]] = {}
    for number, text in enumerate(test_texts):
        for ngram in _ngrams(text):
            holders.setdefault(ngram, set()).add(number)
    counts = Counter(ngram for text in texts for ngram in set(_ngrams(text)) if ngram in holders)
    found = []
    for number, text in enumerate(texts):
        ngrams = set(_ngrams(text))
        shared = Counter(
            test
            for ngram in ngrams
            if ngram in holders and counts[ngram] <= MAX_TEXTS_PER_NGRAM
            for test in holders[ngram]
        )
        found += [SharedText(number, test, shared[test] / len(ngrams)) for test in sorted(shared)]
    return found


def _ngrams(text: str) -> Iterator[tuple[str, ...]]:
    """Every sequence of 13 consecutive words, in lower case, without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1))
