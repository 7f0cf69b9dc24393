"""Clarity of a text by form alone: word order, repetition, number agreement, length. Truth is not considered."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from rsqa_pipeline.scenes.claims import MAX_CHARACTERS, VAGUE_WORDS, tokens_of

_PARTS_OF_SPEECH = {
    "article": ("a", "an", "the"),
    "preposition": ("in", "on", "at", "of", "with", "from", "inside"),
    "verb": ("is", "are", "be", "have", "has"),
    "joint": ("and", "where", "because", "or"),
}
_PART = {word: part for part, words in _PARTS_OF_SPEECH.items() for word in words}
_WRONG_ORDER = frozenset(
    [(a, b) for a in ("preposition", "article") for b in ("preposition", "verb", "joint", "relation")]
    + [(a, a) for a in ("article", "verb", "joint", "activity", "place", "number", "colour")]
    + [("object", "colour"), ("object", "number"), ("object", "article"), ("colour", "number"), ("colour", "article")]
    + [("colour", "preposition"), ("place", "colour"), ("number", "verb"), ("joint", "preposition"), ("colour", "verb")]
    + [("scene", "article"), ("cover", "number"), ("activity", "number"), ("activity", "colour"), ("joint", "place")]
)
"""Pairs of parts of speech that are never adjacent in a correct sentence of these texts."""
_NO_SENTENCE_END = ("article", "preposition", "verb", "joint", "number")
_UNCLEAR = VAGUE_WORDS - {"thing", "things", "place", "picture"}
_LONG, _VERY_LONG = 60, 120
_SMALL_WORDS = """there it not be told aerial photo satellite image view seen from no yes how what which when who does
    show shows their them they without land cover name names owners time age speed one open marked flowing packed bare
    this outside running nearby other area rural urban cannot only an objects"""
_OTHER_WORDS = frozenset(_SMALL_WORDS.split())


def clarity(text: str) -> float:
    """1 (unreadable) .. 5 (clear and grammatical). Never fails; an empty text is 1."""
    tokens = tokens_of(text)
    words = [(token, _PART.get(token, kind)) for token, kind in tokens if token not in ".,;:!?"]
    if not words:
        return 1.0
    faults = 1.0 * _order_faults([(token, _PART.get(token, kind)) for token, kind in tokens])
    faults += 0.5 * _agreement_faults(words)
    faults += _repetition_faults([token for token, _ in words])
    faults += min(1.5, 0.5 * sum(token in _UNCLEAR for token, _ in words))
    known = sum(bool(part) or token in _OTHER_WORDS or token in VAGUE_WORDS for token, part in words)
    if known < 0.5 * len(words):
        faults += 2
    length = len(words) if len(text) <= MAX_CHARACTERS else _VERY_LONG + 1
    faults += (length > _LONG) + (length > _VERY_LONG)
    return max(1.0, 5.0 - faults)


def _order_faults(tokens: list[tuple[str, str]]) -> int:
    faults = 0
    previous = ("", "")
    for token, part in [*tokens, (".", "")]:
        if token == ",":
            previous = ("", "")
            continue
        if token in ".;:!?":
            faults += previous[1] in _NO_SENTENCE_END and not previous[0].isdigit()
            previous = ("", "")
            continue
        faults += (previous[1], part) in _WRONG_ORDER and token != previous[0]
        previous = (token, part)
    return faults


def _agreement_faults(words: list[tuple[str, str]]) -> int:
    """Numbers that do not agree with their noun: "three ship", "one ships"."""
    faults = 0
    number: str | None = None
    for token, part in words:
        if part == "number":
            number = token
        elif part == "object":
            if number is not None:
                faults += (number in ("one", "1")) == token.endswith("s")
            number = None
        elif part != "colour":
            number = None
    return faults


def _repetition_faults(words: list[str]) -> float:
    doubled = sum(a == b for a, b in pairwise(words))
    runs = Counter(zip(words, words[1:], words[2:], words[3:], words[4:], strict=False))
    return doubled + 0.5 * min(4, sum(count - 1 for count in runs.values()))
