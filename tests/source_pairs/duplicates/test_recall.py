"""Recall and precision for planted copies, on real images and on generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs.duplicates.read_images import PERCEPTUAL_THRESHOLD
from tests.source_pairs.duplicates.planted import search

TRUE_PAIRS = {
    ("port_183", "port_248"), ("park_293", "park_48"), ("stadium_188", "stadium_194"), ("stadium_170", "stadium_71"),
    ("stadium_100", "stadium_95"), ("stadium_6", "stadium_93"),
}  # fmt: skip
"""Pairs of RSICD checked by eye: the same place, mostly at another time."""


def test_copies_of_real_images(shared_data: Path) -> None:
    folder = shared_data / "rsicd" / "RSICD_images"
    if not folder.is_dir():
        pytest.skip(f"no RSICD images at {folder}")
    wanted = {name for pair in TRUE_PAIRS for name in pair}
    files = sorted(folder.glob("*.jpg"))
    files = [file for number, file in enumerate(files) if number % 6 == 0 or file.stem in wanted]
    images = [open_image(str(file)) for file in files]
    found = search(images, range(0, len(images), 5), PERCEPTUAL_THRESHOLD)
    assert min(found.recall.values()) >= 0.97, found.recall
    unrelated = {tuple(sorted((files[a].stem, files[b].stem))) for a, b in found.unrelated}
    assert unrelated == TRUE_PAIRS


def test_copies_of_scenes() -> None:
    """One scene per class: scenes of one class are so similar that the search takes some of them for copies."""
    scenes = {sample_scene(seed).scene_class: sample_scene(seed) for seed in range(80)}
    images = [Image.fromarray(render(scene)) for scene in scenes.values()]
    assert len(images) >= 8
    found = search(images, range(len(images)), PERCEPTUAL_THRESHOLD)
    assert min(found.recall.values()) >= 0.9, found.recall
    assert found.precision >= 0.98, found.unrelated


def test_copies_of_textures() -> None:
    """Smooth random fields: all different, with structure at every scale, like overhead images."""
    rng = np.random.default_rng(5)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.rfftfreq(96), indexing="ij"))
    images = []
    for _ in range(60):
        noise = np.fft.rfft2(rng.standard_normal((96, 96))) / (frequency + 1 / 96)
        field = np.fft.irfft2(noise)
        scaled = np.clip((field - field.mean()) / field.std() * 45 + 128, 0, 255).astype(np.uint8)
        images.append(Image.fromarray(scaled).convert("RGB"))
    found = search(images, range(len(images)), PERCEPTUAL_THRESHOLD)
    assert min(found.recall.values()) >= 0.97, found.recall
    assert found.precision == 1.0, found.unrelated
