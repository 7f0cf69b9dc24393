"""The fast transform against Pillow's transposes and imagehash's pHash, and images without structure."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.source_pairs.duplicates.neighbours import near_pairs
from rsqa_pipeline.source_pairs.duplicates.perceptual import COARSE, SIZE, Thumbnails, orient, thumbnail


def picture(seed: int, side: int = 120) -> Image.Image:
    """An enlarged image of 8 x 8 px: structure at low frequencies."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def test_imagehash_bits_are_the_greater_half_of_the_vector() -> None:
    """pHash asks whether each of the 8 x 8 lowest coefficients is above their median."""
    for seed in range(10):
        image = picture(seed)
        vector = Thumbnails(thumbnail(image)[None], np.ones(1, np.int64)).vectors[0]
        bits = imagehash.phash(image, hash_size=COARSE, highfreq_factor=SIZE // COARSE).hash.flatten()[1:]
        inner = np.logical_and.outer(np.arange(8) > 0, np.arange(8) > 0).flatten()[1:]  # scaled the same way in both
        assert 15 < (bits & inner).sum() < 35
        assert vector[inner & bits].min() > vector[inner & ~bits].max()


def test_oriented_coefficients_are_those_of_the_oriented_image() -> None:
    pixels = np.stack([thumbnail(picture(seed)) for seed in range(4)])
    thumbnails = Thumbnails(pixels, np.ones(4, np.int64))
    views = [view for view, _ in zip(thumbnails.views(np.arange(4)), range(8), strict=False)]
    for orientation in range(8):
        oriented = Thumbnails(orient(pixels, np.full(4, orientation)), np.ones(4, np.int64))
        assert views[orientation] == pytest.approx(oriented.vectors, abs=1e-5)


def test_the_eight_orientations_are_pillows() -> None:
    pixels = thumbnail(picture(3))
    oriented = {orient(pixels[None], np.array([orientation])).tobytes() for orientation in range(8)}
    by_pillow = {
        pixels.tobytes(),
        *(np.asarray(Image.fromarray(pixels).transpose(t)).tobytes() for t in Image.Transpose),
    }
    assert oriented == by_pillow


def test_images_of_one_colour_are_not_near_duplicates() -> None:
    flat = [Image.new("RGB", (40, 40), colour) for colour in ("black", "black", "white", "grey")]
    thumbnails = Thumbnails(np.stack([thumbnail(image) for image in flat]), np.ones(4, np.int64))
    rows = np.arange(4)
    assert np.isfinite(thumbnails.vectors).all()
    assert not len(near_pairs(thumbnails, rows, thumbnails, rows, 0.01).first)


def test_different_images_with_similar_low_frequencies_are_distinguished() -> None:
    """One gradient with different details: the search returns the pairs, the comparison rejects them."""
    gradient = np.linspace(0, 200, 120)[None, :, None]
    rng = np.random.default_rng(0)
    images = []
    for _ in range(5):
        detail = Image.fromarray(rng.integers(0, 50, (24, 24), dtype=np.uint8)).resize((120, 120))
        images.append(Image.fromarray((gradient + np.asarray(detail)[..., None]).astype(np.uint8).repeat(3, axis=2)))
    thumbnails = Thumbnails(np.stack([thumbnail(image) for image in images]), np.ones(5, np.int64))
    assert (thumbnails.vectors @ thumbnails.vectors.T).min() > thumbnails.candidate_threshold
    rows = np.arange(5)
    assert not len(near_pairs(thumbnails, rows, thumbnails, rows, 0.88).first)
