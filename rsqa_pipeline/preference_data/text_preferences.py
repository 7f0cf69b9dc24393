"""Text-only preferences for the head's first phase: public ones, or an intact sentence against a corrupted one.

The pairs made here teach no fact about any image, only what an intact text is, so that the head starts from a sensible
direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsqa_pipeline.forgotten import read_forgotten
from rsqa_pipeline.preference_data.build_pairs import Pairs
from rsqa_pipeline.preference_data.candidate import pair_split
from rsqa_pipeline.preference_data.importers.add_imports import add_imports
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.truth import CORPUS_SEEDS, sample_scene
from rsqa_pipeline.tracking.run_logger import RunLogger

ASSET = "text_preferences"
RULE = "text_rule"
"""Name of the judge: the rule that the corrupted text is the rejected one."""

Fault = Callable[[str, np.random.Generator], str]

_AMOUNTS = ("many", "several", "two", "three", "some large", "a few small")
_THINGS = (
    "buildings",
    "planes",
    "green trees",
    "cars",
    "storage tanks",
    "boats",
    "houses with red roofs",
    "sports fields",
)
_RELATIONS = ("are around", "are on two sides of", "are near", "are next to", "stand in a row along", "surround")
_PLACES = ("a river", "an airport", "a wide road", "a railway station", "a park with a pond", "a parking lot", "a port")
_ENDINGS = ("", " in a residential area", " with lawns between them", " close to the sea", " in the desert")


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes pairs.parquet and quarantine.parquet, and two empty tables (a rule decides, and no model writes).

    Raises:
        DataError: a file of ``imports.text`` cannot be read.
    """
    preferences = settings.preference_data
    pairs = Pairs(ASSET, read_forgotten())
    if preferences.imports.text:
        imported = add_imports("text", out, settings, pairs)
    else:
        imported = {}
        _make_pairs(settings, pairs)
    metrics = {**pairs.write(out), **imported}
    logger.log_metrics(metrics)
    return metrics


def _make_pairs(settings: Profile, pairs: Pairs) -> None:
    """Adds ``text_pairs`` pairs, taking the kinds of corruption in turn."""
    preferences = settings.preference_data
    sentence = scene_sentence if preferences.judge == "truth_graph" else built_in_sentence
    for number in range(preferences.text_pairs):
        rng = np.random.default_rng((settings.seed, number))
        name = list(FAULTS)[number % len(FAULTS)]
        chosen = sentence(rng)
        split = pair_split(chosen, preferences.heldout_share, settings.seed)
        pairs.add(text_pair(chosen, FAULTS[name](chosen, rng), name, split))


def text_pair(chosen: str, rejected: str, fault: str, split: str) -> dict[str, Any]:
    """A row of pairs.parquet without its id: no image, no context, no marks."""
    return {
        "image_id": None,
        "image": None,
        "family": "text",
        "context": [],
        "chosen": chosen,
        "rejected": rejected,
        "chosen_source": "fluent",
        "rejected_source": fault,
        "judge": RULE,
        "split": split,
    }


def scene_sentence(rng: np.random.Generator) -> str:
    """An expert's caption of a random scene. Its image is not used."""
    return CAPTIONERS["expert"](sample_scene(int(rng.integers(CORPUS_SEEDS.stop))), rng)


def built_in_sentence(rng: np.random.Generator) -> str:
    """A plain sentence in the words of overhead captions: "several boats are near a port close to the sea ." """
    parts = [str(rng.choice(choices)) for choices in (_AMOUNTS, _THINGS, _RELATIONS, _PLACES)]
    return " ".join(parts) + str(rng.choice(_ENDINGS)) + " ."


def _shuffled(text: str, rng: np.random.Generator) -> str:
    return " ".join(rng.permutation(text.split()).tolist())


def _repeated(text: str, rng: np.random.Generator) -> str:
    """A run of three words is repeated three more times."""
    words = text.split()
    start = int(rng.integers(max(1, len(words) - 3)))
    return " ".join([*words[: start + 3], *words[start : start + 3] * 3, *words[start + 3 :]])


def _truncated(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    return " ".join(words[: max(2, int(len(words) * rng.uniform(0.2, 0.6)))])


def _stuttered(text: str, rng: np.random.Generator) -> str:
    return " ".join(word for each in text.split() for word in [each] * int(rng.integers(1, 3)))


def _vague(text: str, rng: np.random.Generator) -> str:
    opening, thing = rng.choice(("there are", "we can see", "this image has")), rng.choice(("some things", "something"))
    return f"{opening} {thing} in some area."


FAULTS: dict[str, Fault] = {
    "shuffled": _shuffled,
    "repeated": _repeated,
    "truncated": _truncated,
    "stuttered": _stuttered,
    "vague": _vague,
}
"""Ways to corrupt a sentence, taken in turn."""
