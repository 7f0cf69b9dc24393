"""What the shipped models learn from: embedded scenes of seeds that no profile's data use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import CELL, IMAGE_SIZE, SceneTruth, sample_scene
from rsqa_pipeline.scenes.vocabulary import COLOURS, OBJECTS, PLACES, SCENES
from rsqa_pipeline.tiny_models.perception import UNKNOWN, Labels, Target

MAX_COUNT = 6
_SCENES, _OBJECTS, _COLOURS, _PLACES = list(SCENES), list(OBJECTS), list(COLOURS), list(PLACES)

TARGETS: Mapping[str, Target] = {
    "scene_class": Target(1, len(_SCENES)),
    "count": Target(len(_OBJECTS), MAX_COUNT + 1, weight=3.0),
    "colour": Target(len(_OBJECTS), len(_COLOURS)),
    "place": Target(len(_OBJECTS), len(_PLACES)),
    "cell_object": Target(1, len(_OBJECTS) + 1, per_cell=True, weight=3.0),
    "cell_colour": Target(1, len(_COLOURS), per_cell=True),
}
"""Number (0 for absent), colour and place of each object class; what stands in each cell of the 4 x 4 grid."""


def perception_labels(truths: Sequence[SceneTruth]) -> dict[str, torch.Tensor]:
    """The labels of TARGETS, read off the truth; colour and place of absent classes are UNKNOWN."""
    cells = (IMAGE_SIZE // CELL) ** 2
    labels = {
        name: torch.full((len(truths), *((cells,) if t.per_cell else ()), t.groups), UNKNOWN)
        for name, t in TARGETS.items()
    }
    labels["count"].zero_()
    labels["cell_object"].zero_()
    for row, truth in enumerate(truths):
        labels["scene_class"][row, 0] = _SCENES.index(truth.scene_class)
        for group in truth.groups:
            kind, colour = _OBJECTS.index(group.object_class), _COLOURS.index(group.colour)
            labels["count"][row, kind] = group.count
            labels["colour"][row, kind] = colour
            labels["place"][row, kind] = _PLACES.index(group.place)
            for x0, y0, x1, y1 in group.boxes:
                cell = int((y0 + y1) / 2 // CELL) * (IMAGE_SIZE // CELL) + int((x0 + x1) / 2 // CELL)
                labels["cell_object"][row, cell, 0] = kind + 1
                labels["cell_colour"][row, cell, 0] = colour
    return labels


def probe_accuracies(heads_count: torch.Tensor, shares: Mapping[str, float], truths: Sequence[SceneTruth]) -> dict:
    raise NotImplementedError


class ScenePool:
    """Scenes of the given seeds, rendered once and kept: (n, 64, 64, 3) uint8, 12 kB a scene."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.truths = [sample_scene(seed) for seed in seeds]
        shape = (len(self.truths), IMAGE_SIZE, IMAGE_SIZE, 3)
        self.images = np.empty(shape, dtype=np.uint8)
        for row, truth in enumerate(tqdm(self.truths, desc="render scenes", leave=False)):
            self.images[row] = render(truth)
        self.labels = perception_labels(self.truths)

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """``size`` different rows."""
        return rng.choice(len(self.truths), size=size, replace=False)

    def perception_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Labels]:
        rows = self.draw(rng, size)
        return self.images[rows], {name: values[rows] for name, values in self.labels.items()}
