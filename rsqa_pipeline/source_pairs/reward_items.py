"""Items of the reward bench: one right text and three wrong ones about an image, all wrong by one kind of fault.

Scenes give captions from the truth graph (`scenes.one_fault`), files give human captions with changed words
(`caption_faults`). Questions that no image answers, and empty or repeated texts, need no truth and are made from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsqa_pipeline.records import sha256
from rsqa_pipeline.scenes.one_fault import CHANGES, WRONG_TEXTS, TextSet, expert_set, unanswerable_set
from rsqa_pipeline.scenes.truth import SceneTruth
from rsqa_pipeline.source_pairs.caption_faults import WORD_CHANGES, CaptionedImage

UNANSWERABLE, DEGENERATE = "unanswerable", "empty_or_repeated"
REWARD_TASKS = tuple(f"reward_{kind}" for kind in (*CHANGES, UNANSWERABLE, DEGENERATE))
"""Tasks of the items, one per kind of fault."""


def scene_reward_items(truth: SceneTruth, seed: int) -> list[dict[str, Any]]:
    """The items that a scene allows, at most one per kind, without the columns of the image."""
    sets: dict[str, TextSet | None] = {}
    for index, kind in enumerate(CHANGES):
        sets[kind] = expert_set(truth, kind, np.random.default_rng((seed, truth.seed, 6, index)))
    rng = np.random.default_rng((seed, truth.seed, 7))
    sets[UNANSWERABLE] = unanswerable_set([group.object_class for group in truth.groups], rng)
    expert = sets["class"]  # every scene allows this kind
    sets[DEGENERATE] = degenerate_set(expert.right) if expert else None
    return [_item(kind, texts, str(truth.seed), rng) for kind, texts in sets.items() if texts is not None]


def file_reward_items(image: CaptionedImage) -> list[dict[str, Any]]:
    """The items that an image's captions allow, at most one per kind, without the columns of the image.

    Without captions it is the unanswerable question alone.
    """
    captions = image.ordered(sorted(set(image.captions)))
    name = sha256(image.key, "reward bench")[:16]
    rng = np.random.default_rng(int(name, 16))
    sets = {kind: _first_set(kind, captions, image) for kind in WORD_CHANGES}
    sets[UNANSWERABLE] = unanswerable_set([], rng)
    sets[DEGENERATE] = degenerate_set(captions[0]) if captions else None
    return [_item(kind, texts, name, rng) for kind, texts in sets.items() if texts is not None]


def degenerate_set(right: str) -> TextSet:
    """A caption against nothing, itself twice, and itself with its last words over and over."""
    loop = " ".join(right.split()[-3:])
    return TextSet(right, ("", f"{right} {right}", " ".join([right, *[loop] * 5])))


def _first_set(kind: str, captions: Sequence[str], image: CaptionedImage) -> TextSet | None:
    """The first caption in which the kind can be made in three ways; None without any."""
    for caption in captions:
        wrong = WORD_CHANGES[kind](caption, image)[:WRONG_TEXTS]
        if len(wrong) == WRONG_TEXTS:
            return TextSet(caption, tuple(wrong))
    return None


def _item(kind: str, texts: TextSet, name: str, rng: np.random.Generator) -> dict[str, Any]:
    choices = [texts.right, *texts.wrong]
    return {
        "item_id": f"reward_{kind}-{name}",
        "task": f"reward_{kind}",
        "question": texts.question,
        "answer": texts.right,
        "choices": [choices[index] for index in rng.permutation(len(choices))],
    }
