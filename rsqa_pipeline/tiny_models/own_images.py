"""Training material from a profile's own real images: scene classes and clean captions.

The language phase uses only the split ``preference`` and no corrupted text. Any later gain or loss from the corpus is
then due to curation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs.corruption import CorruptionKind
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION, class_words
from rsqa_pipeline.tiny_models.language import Answered, Matched, Text
from rsqa_pipeline.tiny_models.perception import UNKNOWN, Labels, Target
from rsqa_pipeline.tiny_models.pixels import augmented
from rsqa_pipeline.tiny_models.teacher import Teacher

TRAINING_SPLITS = ("preference", "corpus")
TEACHER_WEIGHT = 4.0
"""Weight of the loss 1 - cosine against the scene class's cross-entropy."""
_MATCHED_CAPTIONS = 2
"""Captions to match per image and step."""


class OwnImages:
    """The `Material` of an ``image_text_pairs`` output, all images in memory at the models' size."""

    smoothing = 0.1
    faults: Sequence[str] = ("other_image",)
    words: Mapping[str, Mapping[str, Sequence[int]]] = {}

    def __init__(self, pairs: Path, image_size: int, teacher: Teacher | None = None) -> None:
        """Reads ``pairs/samples.parquet`` and its images.

        Args:
            teacher: its features are learned besides the scene class.

        Raises:
            ModelError: the teacher cannot be read.
            DataError: fewer than two scene classes, or no clean caption in the split ``preference``.
            ImageFault: an image that ingest accepted can no longer be read.
        """
        self.image_size = image_size
        rows = [r for r in read_table(pairs / "samples.parquet") if r["split"] in (*TRAINING_SPLITS, "validation")]
        first = {row["image_id"]: row for row in reversed(rows)}
        self.ids = sorted(first)
        self.splits = [str(first[i]["split"]) for i in self.ids]
        self.scene_classes: list[str | None] = [first[i]["scene_class"] for i in self.ids]
        self.classes = sorted({name for name in self.scene_classes if name is not None})
        self._captions = _clean_captions(rows)
        if len(self.classes) < 2 or not self._captions:
            raise DataError(
                f"{pairs}: models from scratch need images of two scene classes or more (found {len(self.classes)}) "
                f"and clean captions in the split 'preference' (found {len(self._captions)} captioned images)"
            )
        self.images = np.stack([_square(first[i]["image"], image_size) for i in tqdm(self.ids, "read", leave=False)])
        self._captioned = np.array([row for row, image_id in enumerate(self.ids) if image_id in self._captions])
        targets = {"scene_class": Target(1, len(self.classes))}
        self._features: torch.Tensor | None = None
        if teacher is not None:
            self._features = torch.from_numpy(teacher.features({i: first[i]["image"] for i in self.ids}))
            targets["teacher"] = Target(1, self._features.shape[1], weight=TEACHER_WEIGHT, vector=True)
        self.vlm_targets: Mapping[str, Target] = targets
        self.clip_targets: Mapping[str, Target] = targets
        self._training = self.rows_of(*TRAINING_SPLITS)

    def rows_of(self, *splits: str) -> np.ndarray:
        """Rows of the images of these splits that have a scene class."""
        chosen = [
            row
            for row, (split, name) in enumerate(zip(self.splits, self.scene_classes, strict=True))
            if split in splits and name is not None
        ]
        return np.array(chosen, dtype=np.int64)

    def labels(self, rows: np.ndarray) -> Labels:
        names = [self.scene_classes[row] for row in rows]
        known = [self.classes.index(name) if name is not None else UNKNOWN for name in names]
        labels = {"scene_class": torch.tensor(known).unsqueeze(1)}
        return labels if self._features is None else {**labels, "teacher": self._features[rows].unsqueeze(1)}

    def texts(self) -> Iterable[str]:
        yield from (
            CAPTION_PROMPT,
            CLASS_QUESTION,
            "You are a helpful assistant.",
            "system user assistant",
        )
        yield from (class_words(name) for name in self.classes)
        for captions in self._captions.values():
            yield from captions

    def perception_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Labels]:
        rows = rng.choice(self._training, size)
        return augmented(self.images[rows], rng), self.labels(rows)

    def language_batch(self, rng: np.random.Generator, size: int, part: int) -> tuple[np.ndarray, Sequence[Text]]:
        rows = rng.choice(self._captioned, size)
        texts: list[Text] = []
        for position, row in enumerate(rows):
            texts.append(Answered(position, CAPTION_PROMPT, self._caption(row, rng)))
            texts += [self._matched(position, row, rng) for _ in range(_MATCHED_CAPTIONS)]
            name = self.scene_classes[row]
            if name is not None:
                texts.append(Answered(position, CLASS_QUESTION, class_words(name)))
        return augmented(self.images[rows], rng), texts

    def caption_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        rows = rng.choice(self._captioned, size)
        return augmented(self.images[rows], rng), [self._caption(row, rng) for row in rows]

    def _matched(self, position: int, row: int, rng: np.random.Generator) -> Matched:
        """A caption of the image or, with probability 0.5, of an image of another scene class."""
        right = bool(rng.random() < 0.5)
        other = row
        while not right and self.scene_classes[other] == self.scene_classes[row]:
            other = int(rng.choice(self._captioned))
        return Matched(position, CAPTION_PROMPT, self._caption(other, rng), None if right else "other_image")

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        captions = self._captions[self.ids[row]]
        return captions[rng.integers(len(captions))]


def _clean_captions(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    corrupted = get_args(CorruptionKind)
    captions: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == "preference" and row["task"] == "caption" and row["source"] not in corrupted:
            captions.setdefault(row["image_id"], []).append(row["messages"][-1]["content"])
    return captions


def _square(reference: str, size: int) -> np.ndarray:
    """The image's middle square at size x size pixels, uint8 (size, size, 3)."""
    return np.asarray(ImageOps.fit(open_image(reference), (size, size), Image.Resampling.BICUBIC))
