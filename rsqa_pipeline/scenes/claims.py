"""What a text claims about a scene. Any text can be read: a captioner's, a model's, an empty or a huge one.

Claims are read by vocabulary and word proximity: "three red ships are moored on the left" is one mention of ships with
a number, a colour, an activity and a place. Unknown words claim nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rsqa_pipeline.scenes.vocabulary import COLOURS, NUMBERS, OBJECTS, PLACES, SCENES

MAX_CHARACTERS = 4000
"""Longer texts are read only up to here; their length still lowers clarity."""

_SCENE_WORDS = {kind.name: scene for scene, kind in SCENES.items()} | {
    "harbor": "harbour", "port": "harbour", "farm": "farmland", "dense residential": "dense_residential",
    "sparse residential": "sparse_residential", "storage site": "storage_tanks", "tank farm": "storage_tanks",
    "car park": "parking", "parking": "parking", "motorway": "highway",
}  # fmt: skip
_OBJECT_WORDS = {name + ending: name for name in OBJECTS for ending in ("", "s")} | {
    "storage tank": "tank", "storage tanks": "tank", "plane": "airplane", "planes": "airplane", "boat": "ship",
    "boats": "ship", "building": "house", "buildings": "house", "vehicle": "car", "vehicles": "car",
    "lorry": "truck", "lorries": "truck", "swimming pool": "pool", "swimming pools": "pool",
    "thing": "thing", "things": "thing", "object": "thing", "objects": "thing",
}  # fmt: skip
_RELATION_WORDS = {
    "to the left of": "to the left of", "to the right of": "to the right of", "above": "above",
    "below": "below", "beneath": "below",
}  # fmt: skip
_PLACE_WORDS = {**{place: place for place in PLACES}, "upper left": "top left", "upper right": "top right",
                "lower left": "bottom left", "lower right": "bottom right"}  # fmt: skip
_NUMBER_WORDS: dict[str, int] = {word: n for n, word in enumerate(NUMBERS)} | {"a": 1, "an": 1, "without": 0}
_ACTIVITIES = {kind.activity for kind in OBJECTS.values()} | {"driving"}
_COVER_WORDS = {term for kind in SCENES.values() for term in kind.cover_terms}
ALIEN_WORDS = frozenset(
    {"bridge", "bridges", "road", "roads", "people", "train", "trains", "cloud", "clouds", "animals"}
)
"""Things that occur in no scene (a highway has lanes)."""
VAGUE_WORDS = frozenset(
    {"some", "several", "many", "few", "thing", "things", "something", "place", "picture", "maybe", "may", "stuff"}
)  # fmt: skip

_KINDS: dict[str, tuple[str, str | int]] = {}
for _kind, _words in (
    ("number", _NUMBER_WORDS), ("place", _PLACE_WORDS), ("relation", _RELATION_WORDS),
    ("object", _OBJECT_WORDS), ("scene", _SCENE_WORDS),
):  # fmt: skip
    _KINDS.update({word: (_kind, value) for word, value in _words.items()})
_KINDS.update({word: ("colour", word) for word in COLOURS})
_KINDS.update({word: ("activity", word) for word in _ACTIVITIES})
_KINDS.update({word: ("cover", word) for word in _COVER_WORDS})
_KINDS.update({word: ("alien", word) for word in ALIEN_WORDS})

_TOKEN = re.compile(
    r"\b(?:" + "|".join(re.escape(w) for w in sorted(_KINDS, key=len, reverse=True)) + r")\b|[a-z]+|\d+|[.,;:!?]"
)


@dataclass
class Mention:
    """Objects that a text mentions; attributes are None if the text does not state them."""

    object_class: str
    """"thing" if the text does not say what it is, only how it looks."""
    count: int | None = None
    colour: str | None = None
    place: str | None = None
    activity: str | None = None
    relation: tuple[str, str] | None = None
    """("above", "tank"): this mention lies above the tanks."""


@dataclass
class Claims:
    """Everything a text claims."""

    mentions: list[Mention] = field(default_factory=list)
    scenes: set[str] = field(default_factory=set)
    covers: set[str] = field(default_factory=set)
    aliens: set[str] = field(default_factory=set)
    vague_words: int = 0
    words: int = 0


def tokens_of(text: str) -> list[tuple[str, str]]:
    """Words, known phrases and punctuation of a text with their kind: ("red", "colour"), ("seen", "")."""
    found = _TOKEN.findall(text[:MAX_CHARACTERS].lower())
    return [(token, "number" if token.isdigit() else _KINDS.get(token, ("",))[0]) for token in found]


def read_claims(text: str) -> Claims:
    """The claims of a text. Never fails."""
    claims = Claims()
    pending: dict[str, str | int] = {}
    current: Mention | None = None
    relating: str | None = None
    for token, kind in tokens_of(text):
        if token in ".;:!?":
            pending, current, relating = {}, None, None
            continue
        claims.words += len(token.split()) if token != "," else 0
        claims.vague_words += token in VAGUE_WORDS
        value = int(token[:9]) if token.isdigit() else _KINDS.get(token, ("", ""))[1]
        if kind == "object" and current is not None and current.object_class == value and not (pending or relating):
            continue  # the same word again
        if kind == "object":
            mention = Mention(str(value), **pending)  # type: ignore[arg-type]
            if relating and current is not None:
                current.relation = (relating, mention.object_class)
            claims.mentions.append(mention)
            pending, current, relating = {}, mention, None
        elif kind == "number":
            pending.pop("colour", None)
            pending["count"] = value
        elif kind == "colour":
            pending["colour"] = value
        elif kind in ("place", "activity") and current is not None and getattr(current, kind) is None:
            setattr(current, kind, value)
        elif kind == "relation":
            relating = str(value)
        elif kind in ("scene", "cover", "alien"):
            getattr(claims, kind + "s").add(value)
            pending.pop("count", None)
        elif token not in ("is", "are", "the", "and", "of", ",", "large", "small", "parked", "moored"):
            pending.pop("count", None)
    _merge_bare(claims)
    return claims


def _merge_bare(claims: Claims) -> None:
    """Drops unspecific mentions ("some things"), and bare ones that only refer to a more detailed one:
    "... above the tanks. two white tanks are ...".
    """
    full = {m.object_class for m in claims.mentions if m.count is not None or m.colour or m.place}
    kept: list[Mention] = []
    for mention in claims.mentions:
        if mention.object_class == "thing" and mention.colour is None:
            continue
        bare = mention.count is None and mention.colour is None and mention.place is None and mention.relation is None
        if bare and (mention.object_class in full or mention.object_class in {m.object_class for m in kept}):
            continue
        kept.append(mention)
    claims.mentions[:] = kept
