"""Plants copies as found in real corpora among known images, and measures how many of them are found."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from rsqa_pipeline.source_pairs.duplicates.perceptual import Thumbnails, thumbnail


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of 90 % of each side, at a random position."""
    width, height = round(image.width * 0.9), round(image.height * 0.9)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    transpose = rng.choice([Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
    return image.transpose(Image.Transpose(int(transpose)))


def mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    transposes = [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE]
    return image.transpose(Image.Transpose(int(rng.choice(transposes))))


COPIES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "same pixels": lambda image, rng: image.copy(),
    "JPEG at quality 40": lambda image, rng: encoded(image, 40),
    "two thirds of the size": lambda image, rng: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
    "turned": lambda image, rng: encoded(turned(image, rng), 85),
    "mirrored": lambda image, rng: encoded(mirrored(image, rng), 85),
    "90 % crop": lambda image, rng: encoded(cropped(image, rng), 85),
    "turned, cropped, JPEG": lambda image, rng: encoded(cropped(turned(image, rng), rng), 60),
}


@dataclass(frozen=True)
class Found:
    """What a search over images and planted copies found."""

    recall: dict[str, float]
    """Kind of copy -> share found as near-duplicates of the original."""
    precision: float
    """Share of the found pairs that have the same origin."""
    unrelated: set[tuple[int, int]]
    """Found pairs of different origin."""


def search(images: Sequence[Image.Image], copied: Sequence[int], threshold: float) -> Found:
    """Plants a copy of each kind of the images ``copied`` among all images, and searches."""
    rng = np.random.default_rng(0)
    shown, origin = list(images), list(range(len(images)))
    rows_of_kind: dict[str, list[int]] = {kind: [] for kind in COPIES}
    for kind, copy in COPIES.items():
        for row in copied:
            rows_of_kind[kind].append(len(shown))
            shown.append(copy(images[row], rng))
            origin.append(row)
    thumbnails = Thumbnails(np.stack([thumbnail(image) for image in shown]), np.ones(len(shown), np.int64))
    rows = np.arange(len(shown))
    found = near_pairs(thumbnails, rows, thumbnails, rows, threshold)
    pairs = {(min(a, b), max(a, b)) for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)}
    recall = {kind: float(np.mean([(origin[r], r) in pairs for r in rows_of_kind[kind]])) for kind in COPIES}
    same = [origin[a] == origin[b] for a, b in pairs]
    unrelated = {(min(origin[a], origin[b]), max(origin[a], origin[b])) for a, b in pairs if origin[a] != origin[b]}
    return Found(recall, float(np.mean(same)), unrelated)
