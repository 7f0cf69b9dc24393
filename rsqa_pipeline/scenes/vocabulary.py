"""Words and sizes in metres for scenes: scene classes, object classes, colours, places, numbers.

Texts about scenes use only these words, so that a small language model can learn them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SceneKind:
    """A class of scene."""

    name: str
    """As written in texts."""
    article: str
    urban: bool
    gsd: tuple[float, float]
    """Ground sampling distance in metres per pixel; makes the objects below 8 to 14 pixels long."""
    objects: tuple[str, ...]
    """Object classes that may occur, the most typical first."""
    cover: str
    """Land cover, as written in texts."""
    cover_terms: tuple[str, str]
    on_structure: tuple[str, ...] = ()
    """Objects that belong on the structure's side of the image: ships on the water."""
    axis: str | None = None
    """Objects line up with the structure: "along" it or "across" it; None if they can face any direction."""
    hidden_colours: tuple[str, ...] = ()
    """Colours that cannot be seen against this ground."""

    @property
    def phrase(self) -> str:
        return f"{self.article} {self.name}".strip()

    @property
    def within(self) -> str:
        """The phrase with its preposition: "on a beach"."""
        on = self.name in ("farmland", "parking lot", "beach", "highway", "golf course")
        return f"{'on' if on else 'in'} {self.phrase}"


@dataclass(frozen=True)
class ObjectKind:
    """A class of object."""

    length: tuple[float, float]
    """Long side in metres, shortest to longest."""
    aspect: float
    """Short side over long side."""
    height: float
    """Shadow length over the long side."""
    colours: tuple[str, ...]
    activity: str
    """Participle that texts use for it: "moored"."""


ANY_COLOUR = ("white", "red", "blue", "green", "yellow", "black")
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (240, 240, 238),
    "red": (206, 46, 40),
    "blue": (44, 92, 222),
    "green": (38, 152, 62),
    "yellow": (240, 204, 48),
    "black": (34, 34, 38),
}

OBJECTS: dict[str, ObjectKind] = {
    "airplane": ObjectKind((30, 44), 0.95, 0.16, ANY_COLOUR, "parked"),
    "ship": ObjectKind((14, 46), 0.36, 0.12, ANY_COLOUR, "moored"),
    "car": ObjectKind((4.0, 5.0), 0.48, 0.14, ANY_COLOUR, "parked"),
    "truck": ObjectKind((6.0, 7.5), 0.40, 0.18, ANY_COLOUR, "parked"),
    "house": ObjectKind((9, 16), 0.80, 0.24, ("white", "red", "blue", "yellow", "black"), "built"),
    "tank": ObjectKind((10, 40), 1.0, 0.24, ANY_COLOUR, "built"),
    "tree": ObjectKind((8, 16), 1.0, 0.26, ("green", "yellow", "red"), "growing"),
    "pool": ObjectKind((8, 25), 0.58, 0.0, ("blue", "green"), "built"),
    "court": ObjectKind((20, 36), 0.54, 0.0, ("red", "blue", "green"), "built"),
    "warehouse": ObjectKind((18, 44), 0.62, 0.18, ("white", "red", "blue", "black"), "built"),
}

SCENES: dict[str, SceneKind] = {
    "airport": SceneKind(
        "airport", "an", True, (2.8, 3.4), ("airplane", "warehouse"),
        "a runway and an apron", ("runway", "apron"), ("airplane",),
    ),
    "harbour": SceneKind(
        "harbour", "a", True, (2.8, 3.4), ("ship", "warehouse", "tank"),
        "piers and open water", ("piers", "water"), ("ship",), None, ("blue", "black"),
    ),
    "farmland": SceneKind(
        "farmland", "", False, (1.0, 1.3), ("house", "tree", "tank"), "crops and furrows", ("crops", "furrows"),
    ),
    "forest": SceneKind(
        "forest", "a", False, (1.0, 1.2), ("house", "tree"),
        "canopy and undergrowth", ("canopy", "undergrowth"), (), None, ("green", "black"),
    ),
    "dense_residential": SceneKind(
        "dense residential area", "a", True, (1.8, 2.2), ("court", "pool", "warehouse"),
        "streets and packed roofs", ("streets", "roofs"),
    ),
    "sparse_residential": SceneKind(
        "sparse residential area", "a", False, (0.9, 1.1), ("house", "pool", "tree"),
        "lawns and gardens", ("lawns", "gardens"),
    ),
    "storage_tanks": SceneKind(
        "storage tank site", "a", True, (1.6, 2.6), ("tank", "warehouse"), "gravel and pipes", ("gravel", "pipes"),
    ),
    "parking": SceneKind(
        "parking lot", "a", True, (0.43, 0.5), ("car", "truck"),
        "asphalt and marked bays", ("asphalt", "bays"), (), "across", ("black",),
    ),
    "stadium": SceneKind(
        "stadium", "a", True, (2.2, 2.6), ("court", "pool", "warehouse"),
        "a pitch and a running track", ("pitch", "track"), ("court", "pool", "warehouse"),
    ),
    "river": SceneKind(
        "river", "a", False, (1.1, 1.4), ("ship", "house", "tree"),
        "flowing water and banks", ("water", "banks"), ("ship",), None, ("blue", "black"),
    ),
    "beach": SceneKind(
        "beach", "a", False, (1.1, 1.4), ("ship", "house", "tree"),
        "sand and surf", ("sand", "surf"), ("ship",), None, ("blue",),
    ),
    "highway": SceneKind(
        "highway", "a", True, (0.43, 0.5), ("car", "truck"),
        "lanes and a median", ("lanes", "median"), (), "along", ("black",),
    ),
    "desert": SceneKind(
        "desert", "a", False, (1.0, 1.3), ("tank", "house", "tree"),
        "dunes and bare sand", ("dunes", "sand"), (), None, ("yellow",),
    ),
    "golf_course": SceneKind(
        "golf course", "a", False, (1.0, 1.3), ("pool", "tree", "house"),
        "fairways and bunkers", ("fairways", "bunkers"),
    ),
}  # fmt: skip

PLACES: dict[str, tuple[float, float]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
"""Halves and quadrants of the image, with the direction from its centre (x to the right, y down)."""

PLACE_PHRASES = {
    place: ("on the " if place in ("left", "right") else "at the " if place in ("top", "bottom") else "in the ") + place
    for place in PLACES
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def count_phrase(count: int, noun: str) -> str:
    """ "three ships", "one ship", "no ships"; counts above ten as digits."""
    word = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{word} {noun if count == 1 else noun + 's'}"


def activity(object_class: str, scene_class: str) -> str:
    """What objects of this class do in this scene, as a participle."""
    if scene_class == "highway" and object_class in ("car", "truck"):
        return "driving"
    return OBJECTS[object_class].activity
