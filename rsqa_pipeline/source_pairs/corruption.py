"""Systematic faults for human captions. Each kind imitates a poor captioner that is wrong in one consistent way.

Symmetric random noise averages out in training, because the right text stays the most frequent one. A habit does not.
Therefore ``class_swap`` always confuses the same classes and objects, ``count_change`` sees three of everything,
``vague`` names nothing, and ``wrong_image`` uses the caption of an image of the class that it confuses with the true
one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rsqa_pipeline.records import sha256
from rsqa_pipeline.source_pairs.scene_classes import class_words
from rsqa_pipeline.source_pairs.split import unit_hash

CorruptionKind = Literal["class_swap", "count_change", "vague", "wrong_image"]

TRUE_QUALITY: Mapping[CorruptionKind | None, float] = {
    None: 5.0,
    "vague": 3.0,
    "count_change": 2.5,
    "class_swap": 1.5,
    "wrong_image": 1.0,
}
"""True quality of a text, 1..5, by its kind of corruption; None is the unchanged human text."""

# One cycle over RSICD's classes: every class is confused with exactly one other.
_CLASS_CYCLE = (
    "airport", "port", "beach", "desert", "meadow", "forest", "mountain", "bare_land", "farmland", "park", "school",
    "church", "center", "square", "stadium", "playground", "baseball_field", "pond", "river", "viaduct", "bridge",
    "railway_station", "industrial", "storage_tanks", "commercial", "dense_residential", "medium_residential",
    "sparse_residential", "resort", "parking",
)  # fmt: skip
_CLASS_SWAPS = dict(zip(_CLASS_CYCLE, _CLASS_CYCLE[1:] + _CLASS_CYCLE[:1], strict=True))

# Nouns for those classes and for common objects: singular -> singular; plurals are derived.
_NOUN_SWAPS = {
    "airport": "port", "runway": "pier", "terminal": "wharf", "airplane": "ship", "plane": "ship", "aircraft": "ship",
    "port": "beach", "harbor": "beach", "harbour": "beach", "ship": "umbrella", "boat": "umbrella",
    "beach": "desert", "ocean": "dune", "sea": "dune", "wave": "dune", "desert": "meadow", "sand": "grass",
    "meadow": "forest", "grassland": "forest", "lawn": "tree", "forest": "mountain", "wood": "hill", "tree": "rock",
    "mountain": "bare land", "hill": "bare land", "bareland": "farmland", "bare land": "farmland",
    "farmland": "park", "field": "lawn", "crop": "bench", "park": "school", "school": "church", "campus": "church",
    "church": "center", "dome": "arch", "center": "square", "square": "stadium", "stadium": "playground",
    "playground": "baseball field", "football field": "baseball diamond", "basketball court": "baseball diamond",
    "tennis court": "swimming pool", "baseball field": "pond", "baseball diamond": "pond", "pond": "river",
    "lake": "river", "river": "viaduct", "water": "asphalt", "viaduct": "bridge", "overpass": "bridge",
    "bridge": "railway station", "railway station": "factory", "train station": "factory", "station": "factory",
    "railway": "pipeline", "train": "truck", "industrial area": "storage tank area", "industrial": "storage tank",
    "factory": "storage tank", "storage tank": "office block", "tank": "office block",
    "commercial area": "dense residential area", "commercial": "dense residential",
    "dense residential": "medium residential", "medium residential": "sparse residential",
    "sparse residential": "resort", "residential area": "resort", "house": "villa", "villa": "cottage",
    "resort": "parking lot", "swimming pool": "tennis court", "parking lot": "airport", "parking": "airport",
    "car": "plane", "vehicle": "plane", "building": "tank", "road": "river", "street": "canal",
}  # fmt: skip

_QUANTITY = re.compile(
    r"\b(many|some|several|a few|few|a lot of|lots of|plenty of|a large number of|a number of|dozens of|"
    r"two|three|four|five|six|seven|eight|nine|ten|\d+)\b",
    re.IGNORECASE,
)
_END = re.compile(r"\s*[.!?]?\s*$")

_VAGUE_OPENINGS = ("this is", "it is", "here is", "there is", "we can see", "the image shows")
_VAGUE_THINGS = (
    "an overhead view of some area",
    "some place seen from above",
    "a piece of ground with some things on it",
    "an area with different things in it",
    "a place with several colors",
)
_VAGUE_ENDINGS = ("", " in the picture", " and more around it")


@dataclass
class CaptionPool:
    """The captions that faults are made from: the known classes and the captions of each image."""

    classes: list[str] = field(default_factory=list)
    _texts: dict[str, list[str]] = field(default_factory=dict)
    _images: dict[str | None, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> CaptionPool:
        """Builds the pool from rows with ``image_id``, ``scene_class`` and ``messages``; only single captions are
        used."""
        pool = cls()
        classes: dict[str, str | None] = {}
        for row in rows:
            if len(row["messages"]) == 1:
                pool._texts.setdefault(row["image_id"], []).append(row["messages"][0]["content"])
                classes[row["image_id"]] = row["scene_class"]
        for image_id in sorted(classes):
            for scene_class in {classes[image_id], None}:  # None holds all images
                pool._images.setdefault(scene_class, []).append(image_id)
        pool.classes = sorted(scene_class for scene_class in pool._images if scene_class is not None)
        return pool

    def caption_of_another(self, image_id: str, scene_class: str | None, key: str) -> str | None:
        """A caption of an image of the class confused with ``scene_class``, or of any class; None without another
        image."""
        wanted = swapped_class(scene_class, self.classes) if scene_class else None
        images = self._images.get(wanted) or self._images.get(None, [])
        others = [other for other in _next_two(images, sha256(key, "donor")) if other != image_id]
        if not others:
            return None
        texts = self._texts[others[0]]
        return texts[int(unit_hash(key, "donor's caption") * len(texts))]


def _next_two(ids: list[str], point: str) -> list[str]:
    """The two ids that follow ``point`` on the ring of sorted ids, so that adding or removing an id moves few
    choices."""
    start = bisect_left(ids, point)
    return [ids[(start + step) % len(ids)] for step in range(min(2, len(ids)))]


def swapped_class(scene_class: str, classes: list[str]) -> str:
    """The class always confused with ``scene_class``: its fixed partner, else the next of ``classes`` by name."""
    fixed = _CLASS_SWAPS.get(scene_class)
    if fixed in classes:
        return fixed
    others = sorted(other for other in classes if other != scene_class)
    later = [other for other in others if other > scene_class]
    return (later or others or [scene_class])[0]


def corrupt(
    text: str, kind: CorruptionKind, key: str, image_id: str, scene_class: str | None, pool: CaptionPool
) -> str | None:
    """Returns ``text`` as the captioner ``kind`` would write it; None if the habit changes nothing.

    Args:
        text: a caption.
        kind: the habit.
        key: seeds the random choices (wording, donor); the same key gives the same text.
        image_id: the caption's own image.
        scene_class: class of that image, None if unknown.
        pool: captions and classes of the corpus.

    Example: ``many planes are parked next to a long building in an airport .`` becomes ``many ships are parked next
    to a long tank in a port .``, ``three planes are parked ...``, ``this is some place seen from above .``
    """
    if kind == "class_swap":
        changed: str | None = _swap_nouns(text, pool.classes)
    elif kind == "count_change":
        changed = _change_counts(text)
    elif kind == "vague":
        changed = _vague(key)
    else:
        changed = pool.caption_of_another(image_id, scene_class, key)
    return changed if changed != text else None


def _swap_nouns(text: str, classes: list[str]) -> str:
    own = {class_words(name): class_words(swapped_class(name, classes)) for name in classes if name not in _CLASS_SWAPS}
    return replace_nouns(text, {**own, **_NOUN_SWAPS})


def replace_nouns(text: str, singular: Mapping[str, str]) -> str:
    """Replaces nouns, in singular and plural, with articles that fit.

    Args:
        singular: noun -> its replacement, both singular, in lower case.
    """
    swaps = {**{_plural(noun): _plural(other) for noun, other in singular.items()}, **singular}
    nouns = "|".join(re.escape(noun) for noun in sorted(swaps, key=len, reverse=True))

    def swap(match: re.Match[str]) -> str:
        article, noun = match[1], swaps[match[2].lower()]
        if article:
            right = "an" if noun[0] in "aeiou" else "a"
            return f"{right.capitalize() if article[0].isupper() else right} {noun}"
        return noun.capitalize() if match[2][0].isupper() else noun

    return re.sub(rf"\b(?:(an?)\s+)?({nouns})\b", swap, text, flags=re.IGNORECASE)


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _change_counts(text: str) -> str:
    def count(match: re.Match[str]) -> str:
        word = "seven" if match[0].lower() == "three" else "three"
        return word.capitalize() if match[0][0].isupper() else word

    changed, found = _QUANTITY.subn(count, text)
    return changed if found else _END.sub(" and there are three of them .", text, count=1)


def _vague(key: str) -> str:
    opening, thing, ending = (
        choices[int(unit_hash(key, part) * len(choices))]
        for part, choices in (("opening", _VAGUE_OPENINGS), ("thing", _VAGUE_THINGS), ("ending", _VAGUE_ENDINGS))
    )
    return f"{opening} {thing}{ending} ."
