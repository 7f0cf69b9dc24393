"""Names of scene classes: one spelling, ``dense_residential``, in tables; words, ``dense residential``, in texts."""

from __future__ import annotations

import re

from rsqa_pipeline.source_pairs.source_row import file_split

CLASS_QUESTION = "what class of scene is this?"

# RSICD and AID write class names in one word.
_COMPOUNDS = {
    "bareland": "bare_land",
    "baseballfield": "baseball_field",
    "denseresidential": "dense_residential",
    "mediumresidential": "medium_residential",
    "sparseresidential": "sparse_residential",
    "railwaystation": "railway_station",
    "storagetanks": "storage_tanks",
}


def class_from_name(name: str) -> str:
    """``StorageTanks``, ``storagetanks`` and ``storage tanks`` -> ``storage_tanks``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    plain = re.sub(r"[\s_-]+", "_", spaced).strip("_").lower()
    return _COMPOUNDS.get(plain, plain)


def class_from_file_name(name: str) -> str | None:
    """The words before the number: ``airport_1.jpg`` -> ``airport``, ``dense_residential_12.jpg`` ->
    ``dense_residential``, UCM's ``agricultural00.tif`` -> ``agricultural``; None if there are no words before one."""
    letters = re.match(r"[A-Za-z]+(?:[\s_-]+[A-Za-z]+)*(?=[\s_-]*\d)", name)
    if letters is None:
        return None
    words = re.split(r"[\s_-]+", letters[0])
    if len(words) > 1 and file_split(words[-1]) is not None:  # ``airport_test_1.jpg``
        words.pop()
    return class_from_name("_".join(words))


def class_words(scene_class: str) -> str:
    """``storage_tanks`` -> ``storage tanks``."""
    return scene_class.replace("_", " ")


def with_article(words: str) -> str:
    """``airport`` -> ``an airport``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
