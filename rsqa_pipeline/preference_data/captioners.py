"""Candidate captions of one image by several captioners of different skill (paper, ICPD).

The profile names the captioners. If the scenes are known, they are scene captioners. On real images they are ``human``
(one of the image's own captions) and kinds of corruption, applied to another of its own captions. In both cases they
may also be ``vlm``, the base VLM sampled at temperature, and the models of the profile (`model_texts`).

At most `CAPTIONERS_PER_IMAGE` of them, drawn by hash, caption an image. If all captioned every image, the best one
would always be chosen and the pairs would never order two poorer ones; but a corpus is ranked over its whole range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, cast, get_args

import numpy as np

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data.candidate import NO_FAULT, Candidate, Subject
from rsqa_pipeline.profile.preference_data import BASE_VLM
from rsqa_pipeline.records import sha256
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.one_fault import WRONG_TEXTS, expert_set
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs.corruption import CaptionPool, CorruptionKind, corrupt
from rsqa_pipeline.source_pairs.split import unit_hash

HUMAN = "human"
CORRUPTION_KINDS: tuple[str, ...] = get_args(CorruptionKind)
CAPTIONERS_PER_IMAGE = 4
"""Captions that compete for an image (paper: three)."""


def check_captioners(names: Sequence[str], models: Collection[str], on_scenes: bool) -> None:
    """Raises DataError if a captioner does not fit this data, or a model has the name of a captioner.

    Args:
        models: names of the profile's models.
    """
    built_in = {BASE_VLM, HUMAN, *CORRUPTION_KINDS, *CAPTIONERS}
    taken = sorted(built_in.intersection(models))
    if taken:
        raise DataError(f"preference_data.models: {', '.join(taken)} is a captioner's name already; choose another")
    known = {BASE_VLM, *models, *(CAPTIONERS if on_scenes else (HUMAN, *CORRUPTION_KINDS))}
    unknown = sorted(set(names) - known)
    if unknown:
        data = "scenes" if on_scenes else "images without a known scene"
        raise DataError(
            f"preference_data.captioners: {', '.join(unknown)} cannot caption {data}; known: {', '.join(sorted(known))}"
        )


def drawn_captioners(names: Sequence[str], image_id: str, seed: int) -> list[str]:
    """The captioners of an image: `CAPTIONERS_PER_IMAGE` of ``names``, drawn by hash."""
    return sorted(names, key=lambda name: unit_hash(str(seed), "captioner", name, image_id))[:CAPTIONERS_PER_IMAGE]


def scene_captions(
    subjects: Sequence[Subject], scenes: Mapping[str, int], names: Sequence[str], seed: int
) -> Iterator[Candidate]:
    """Captions by the scene captioners drawn from ``names``.

    Args:
        scenes: image_id -> seed of its scene.
    """
    for subject in subjects:
        truth = sample_scene(scenes[subject.image_id])
        for name in drawn_captioners(names, subject.image_id, seed):
            if name in CAPTIONERS:
                rng = np.random.default_rng(int(sha256(str(seed), name, subject.image_id)[:16], 16))
                yield Candidate(subject, CAPTIONERS[name](truth, rng), name)


def one_fault_captions(
    subjects: Sequence[Subject], scenes: Mapping[str, int], kind: str, pairs: int, seed: int
) -> Iterator[Candidate]:
    """The expert's captions and the same ones with one fault, enough for ``pairs`` pairs if the scenes allow so many.

    Every scene that allows the kind gets its first fault before any gets a second.
    """
    sets = []
    for subject in subjects:
        rng = np.random.default_rng(int(sha256(str(seed), "one fault", kind, subject.image_id)[:16], 16))
        texts = expert_set(sample_scene(scenes[subject.image_id]), kind, rng)
        if texts is not None:
            sets.append((subject, texts))
    for place, (subject, texts) in list(product(range(WRONG_TEXTS), sets))[:pairs]:
        if place == 0:
            yield Candidate(subject, texts.right, "expert")
        yield Candidate(subject, texts.wrong[place], f"wrong_{kind}")


def human_captions(
    rows: Sequence[Mapping[str, Any]], subjects: Sequence[Subject], names: Sequence[str], seed: int
) -> Iterator[Candidate]:
    """Captions of real images: one of an image's own for ``human``, another one for each kind of corruption drawn.

    A corruption that does not change the caption gives no candidate.

    Args:
        rows: all captions to draw from; for a caption that is already corrupted, its original is used.
    """
    originals = [_original(row) for row in rows]
    pool = CaptionPool.of(originals)
    captions: dict[str, list[str]] = {}
    classes: dict[str, str | None] = {}
    for row in originals:
        captions.setdefault(row["image_id"], []).append(row["messages"][0]["content"])
        classes[row["image_id"]] = row["scene_class"]
    for subject in subjects:
        image_id = subject.image_id
        own = sorted(set(captions[image_id]), key=lambda text: unit_hash(str(seed), image_id, text))
        for position, name in enumerate(drawn_captioners(names, image_id, seed)):
            text = own[position % len(own)]
            if name == HUMAN:
                yield Candidate(subject, text, HUMAN, NO_FAULT)
            elif name in CORRUPTION_KINDS:
                kind = cast(CorruptionKind, name)
                changed = corrupt(text, kind, f"{seed}/{image_id}/{name}", image_id, classes[image_id], pool)
                if changed is not None:
                    yield Candidate(subject, changed, name, name)


def _original(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["original_text"] is None:
        return dict(row)
    return {**row, "messages": [{"role": "assistant", "content": row["original_text"]}]}
