"""Draws a scene: ground, objects with shadows, then sensor and air effects. About 1 ms per image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from rsqa_pipeline.scenes.canvas import SCALE, Canvas
from rsqa_pipeline.scenes.grounds import GROUNDS
from rsqa_pipeline.scenes.objects import draw_object, draw_shadow
from rsqa_pipeline.scenes.truth import IMAGE_SIZE, Effects, SceneTruth

_HAZE = np.float32(218.0)


def render(truth: SceneTruth) -> np.ndarray:
    """The scene's pixels, (64, 64, 3) uint8 RGB. Deterministic."""
    rng = np.random.default_rng((truth.seed, 1))
    canvas = Canvas(truth, rng)
    GROUNDS[truth.scene_class](canvas)
    for group in truth.groups:
        for box, heading in zip(group.boxes, group.headings, strict=True):
            draw_shadow(canvas, group, box, heading)
    for group in truth.groups:
        for box, heading in zip(group.boxes, group.headings, strict=True):
            draw_object(canvas, group, box, heading)
    return _apply_effects(canvas.image.reduce(SCALE), truth.effects, rng)


def _apply_effects(image: Image.Image, effects: Effects, rng: np.random.Generator) -> np.ndarray:
    """Applies blur, uneven light, haze and noise."""
    if effects.blur > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(effects.blur))
    coarse = Image.fromarray(rng.normal(1.0, 0.05, (9, 9)).astype(np.float32))
    light = np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))[:, :, None]
    pixels = np.asarray(image, dtype=np.float32) * (light * np.float32(1 - effects.haze))
    grain = rng.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    pixels += grain * np.float32(effects.noise) + _HAZE * np.float32(effects.haze)
    return pixels.clip(0, 255).astype(np.uint8)
