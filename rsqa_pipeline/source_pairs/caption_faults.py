"""Human captions with one fault of a known kind, made by changing words; the captions are all that is known.

A changed word contradicts the captions of its image, which is as much as can be said without a truth graph: what no
caption of an image mentions may still be in it. Faults that add an object therefore name only objects that nothing in
the captions or the class suggests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rsqa_pipeline.source_pairs.corruption import replace_nouns, swapped_class
from rsqa_pipeline.source_pairs.scene_classes import class_words, with_article
from rsqa_pipeline.source_pairs.split import unit_hash

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COLOURS = ("white", "red", "blue", "green", "yellow", "black", "gray", "brown")
OBJECTS: Mapping[str, tuple[str, ...]] = {
    "airplane": ("plane", "aircraft", "airport", "terminal"),
    "ship": ("boat", "port", "harbor", "harbour", "dock", "river", "sea"),
    "bridge": ("viaduct", "overpass", "river"),
    "train": ("railway", "station"),
    "stadium": ("playground", "football", "baseball", "court"),
    "windmill": ("turbine",),
}
"""Object that can be added to a caption -> words that suggest it; a class or caption with one of them rules it out."""
_FAR = ("far from", "a long way from", "not close to")
_AT_THE_RIM = ("in the corner of", "at the edge of", "outside of")
_PLACES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("near to", "near", "next to", "beside", "close to", "surrounded by", "around", "between"), _FAR),
    **{f"in the {middle} of": _AT_THE_RIM for middle in ("middle", "center", "centre")},
    "on both sides of": _FAR,
    "on two sides of": _FAR,
}
"""Phrase of place -> phrases that contradict it."""


@dataclass(frozen=True)
class CaptionedImage:
    """What is known about an image: its captions and its class."""

    captions: Sequence[str]
    scene_class: str | None
    classes: list[str]
    """Every class of the corpus."""
    key: str
    """Seeds the random choices."""

    def ordered(self, words: Sequence[str]) -> list[str]:
        """The words in an order drawn by hash."""
        return sorted(words, key=lambda word: unit_hash(self.key, word))


WordChange = Callable[[str, CaptionedImage], list[str]]
"""(caption, its image) -> captions with one fault; empty where the caption has nothing to change."""


def changed_count(text: str, image: CaptionedImage) -> list[str]:
    """The first number from two to ten, in words, replaced by others."""
    plural = NUMBERS[1:]  # "one" is followed by singular nouns and verbs
    return _first_word_replaced(text, {word: [w for w in plural if w != word] for word in plural}, image)


def changed_colour(text: str, image: CaptionedImage) -> list[str]:
    """The first colour replaced by colours that no caption of the image names."""
    named = " ".join(image.captions).lower().replace("grey", "gray")
    others = [colour for colour in COLOURS if not re.search(rf"\b{colour}", named)]
    return _first_word_replaced(text, dict.fromkeys((*COLOURS, "grey"), others), image)


def changed_place(text: str, image: CaptionedImage) -> list[str]:
    """The first phrase of place replaced by one that contradicts it."""
    return _first_word_replaced(text, _PLACES, image)


def changed_class(text: str, image: CaptionedImage) -> list[str]:
    """The name of the image's class replaced by those of other classes, the commonly confused one first."""
    if image.scene_class is None or len(image.classes) < 2:
        return []
    confused = swapped_class(image.scene_class, image.classes)
    others = [name for name in image.classes if name not in (image.scene_class, confused)]
    own = _singular(class_words(image.scene_class))
    changed = (replace_nouns(text, {own: _singular(class_words(n))}) for n in (confused, *image.ordered(others)))
    return [other for other in changed if other != text]


def invented_object(text: str, image: CaptionedImage) -> list[str]:
    """A sentence about an object that nothing in the captions or the class suggests."""
    known = " ".join([*image.captions, class_words(image.scene_class or "")]).lower()
    absent = [name for name, hints in OBJECTS.items() if not re.search(rf"\b({'|'.join((name, *hints))})", known)]
    return [f"{text.rstrip()} there is also {with_article(name)} ." for name in image.ordered(absent)]


WORD_CHANGES: Mapping[str, WordChange] = {
    "count": changed_count,
    "colour": changed_colour,
    "place": changed_place,
    "class": changed_class,
    "invented_object": invented_object,
}
"""Kind of fault -> the function that makes it in a human caption."""


def _first_word_replaced(text: str, swaps: Mapping[str, Sequence[str]], image: CaptionedImage) -> list[str]:
    phrases = "|".join(sorted(swaps, key=len, reverse=True))
    found = re.search(rf"\b({phrases})\b", text, re.IGNORECASE)
    if found is None:
        return []
    others = image.ordered(swaps[found[0].lower()])
    return [text[: found.start()] + other + text[found.end() :] for other in others]


def _singular(words: str) -> str:
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words
