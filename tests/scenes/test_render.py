from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import SceneTruth, sample_scene
from rsqa_pipeline.scenes.vocabulary import COLOURS


def test_pixels_follow_the_truth(any_scene: SceneTruth) -> None:
    pixels = render(any_scene)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, render(any_scene))
    assert pixels.std() > 5


def test_objects_appear_only_in_their_boxes(harbour: SceneTruth) -> None:
    """The ground is the same without objects, so only objects and their shadows differ."""
    ground = replace(harbour, groups=())
    differs = np.abs(render(harbour).astype(int) - render(ground).astype(int)).sum(axis=2) > 60
    near = np.zeros_like(differs)
    for group in harbour.groups:
        for x0, y0, x1, y1 in group.boxes:
            assert differs[y0:y1, x0:x1].mean() > 0.5
            near[max(0, y0 - 5) : y1 + 5, max(0, x0 - 5) : x1 + 5] = True
    assert not (differs & ~near).any()


def test_boxes_are_tight() -> None:
    """A tank comes within two pixels of each edge of its box."""
    for seed in range(300):
        scene = sample_scene(seed)
        group = scene.group_of("tank")
        if group is None:
            continue
        clear = replace(scene, effects=replace(scene.effects, haze=0, noise=0, blur=0))
        changed = render(clear).astype(int) - render(replace(clear, groups=())).astype(int)
        x0, y0, x1, y1 = group.boxes[0]
        inside = np.abs(changed[y0:y1, x0:x1]).sum(axis=2) > 20
        assert inside[:, :2].any()
        assert inside[:, -2:].any()
        assert inside[:2].any()
        assert inside[-2:].any()


def test_a_red_ship_is_red(harbour: SceneTruth) -> None:
    x0, y0, x1, y1 = harbour.groups[0].boxes[0]
    pixels = render(harbour)[y0:y1, x0:x1].reshape(-1, 3).astype(int)
    distance = np.abs(pixels - np.array(COLOURS["red"])).sum(axis=1)
    assert (distance < 90).mean() > 0.2


def test_effects_change_pixels_only(harbour: SceneTruth) -> None:
    clear = render(harbour).astype(float)
    hazy = render(replace(harbour, effects=replace(harbour.effects, haze=0.35))).astype(float)
    noisy = render(replace(harbour, effects=replace(harbour.effects, noise=9))).astype(float)
    blurred = render(replace(harbour, effects=replace(harbour.effects, blur=0.7))).astype(float)
    assert hazy.std() < 0.8 * clear.std()
    assert np.abs(np.diff(noisy, axis=0)).mean() > np.abs(np.diff(clear, axis=0)).mean()
    assert np.abs(np.diff(blurred, axis=0)).mean() < np.abs(np.diff(clear, axis=0)).mean()
