"""Texts of test items that stand in training texts: the 13-word rule.

A training text counts as holding a test item's text where they share 13 words in a row, unless more than 10 training
texts hold the same 13 words: then it is a common phrase (Brown et al. 2020, appendix C). Shorter test texts, such as
"what class of scene is this?", belong to no item in particular; only images tell those items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WORDS = 13
COMMON_ABOVE = 10


@dataclass(frozen=True)
class SharedText:
    """A training text that holds words of a test text."""

    text: int
    """Which of the training texts."""
    test_text: int
    """Which of the test texts."""
    share: float
    """Of the training text's runs of 13 words, those that the test text has too, in (0, 1]."""


def shared_texts(texts: Sequence[str], test_texts: Sequence[str]) -> list[SharedText]:
    """Every pair that shares 13 words in a row which are no common phrase, in the order of the training texts."""
    holders: dict[tuple[str, ...], set[int]] = {}
    for number, text in enumerate(test_texts):
        for run in _runs(text):
            holders.setdefault(run, set()).add(number)
    counts = Counter(run for text in texts for run in set(_runs(text)) if run in holders)
    found = []
    for number, text in enumerate(texts):
        runs = set(_runs(text))
        shared = Counter(
            test for run in runs if run in holders and counts[run] <= COMMON_ABOVE for test in holders[run]
        )
        found += [SharedText(number, test, shared[test] / len(runs)) for test in sorted(shared)]
    return found


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """Each 13 words in a row, in lower case, without punctuation."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
