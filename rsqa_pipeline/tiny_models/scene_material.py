"""Training material of the shipped models: embedded scenes of seeds that no profile's data uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.questions import ANSWERERS, instruction_questions
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import CELL, IMAGE_SIZE, PRETRAIN_SEEDS, SceneTruth, sample_scene
from rsqa_pipeline.scenes.vocabulary import COLOURS, NUMBERS, OBJECTS, PLACES, SCENES
from rsqa_pipeline.tiny_models.checking import (
    FAULT_SHARES,
    FAULTS,
    matched_answer,
    matched_caption,
    matched_statement,
)
from rsqa_pipeline.tiny_models.language import Answered, Text
from rsqa_pipeline.tiny_models.perception import UNKNOWN, Labels, Target

CAPTION_MIX = {"expert": 0.3, "plain": 0.4, "layman": 0.1, "incomplete": 0.1, "vague": 0.1}
"""Share of the VLM's training captions by captioner."""
ANSWER_MIX = {"reference": 0.91, "hasty": 0.03, "overcounter": 0.03, "guesser": 0.03}
QUESTION_SHARE = {
    "scene_class": 0.7,
    "presence": 1.0,
    "count": 1.0,
    "comparison": 0.7,
    "rural_urban": 0.5,
    "open": 0.3,
    "grounding": 0.3,
    "choice": 1.0,
}
_MAX_QUESTIONS = 4
"""Per image and step, besides its caption."""
_MATCHED_CAPTIONS = (2, 3, 3)
"""Captions to match per image and step, for each part of the phase; the same number of statements and answers."""
_TOKENIZER_SCENES = 1500
_REASONING = (
    "<think>I see two red cars on the left.</think><answer>2</answer>",
    "<think></think>",
    "<answer></answer>",
)
_Writer = TypeVar("_Writer")
_CELLS = (IMAGE_SIZE // CELL) ** 2
_SCENES, _OBJECTS, _COLOURS, _PLACES = list(SCENES), list(OBJECTS), list(COLOURS), list(PLACES)
_MAX_GROUP_COUNT = 6

TARGETS: Mapping[str, Target] = {
    "scene_class": Target(1, len(_SCENES)),
    "cell_object": Target(1, len(_OBJECTS) + 1, per_cell=True, weight=10.0),
    "cell_colour": Target(1, len(_COLOURS), per_cell=True),
    "cell_number": Target(1, _CELLS, per_cell=True),
}
"""The scene class; for each cell of the 4 x 4 grid the class (0 for none) and colour of its object, and the cell's own
number: the tower has only relative positions, and places need absolute ones."""
VLM_TARGETS: Mapping[str, Target] = {
    **TARGETS,
    "group_count": Target(1, _MAX_GROUP_COUNT, per_cell=True, weight=3.0),
    "group_place": Target(1, len(_PLACES), per_cell=True, weight=2.0),
}
"""Also, predicted from each object's cell: the count and place of its group. A tower counts over the whole image more
easily than a language model of three layers does over its tokens."""
GENERAL_TARGETS: Mapping[str, Target] = {
    **VLM_TARGETS,
    "box_tens": Target(4, IMAGE_SIZE // 10 + 1, per_cell=True, weight=4.0),
    "box_units": Target(4, 10, per_cell=True, weight=4.0),
}
"""Also the four edges of the object's box, digit by digit as texts write them: a tower that keeps no edges cannot be
taught grounding by tuning the language model."""


WORDS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "cell_object": {word: [1 + i] for i, name in enumerate(_OBJECTS) for word in (name, f"{name}s")},
    "cell_colour": {name: [i] for i, name in enumerate(_COLOURS)},
    "group_count": {
        word: [i] for i, number in enumerate(range(1, _MAX_GROUP_COUNT + 1)) for word in (NUMBERS[number], str(number))
    },
    "group_place": {
        word: [i for i, place in enumerate(_PLACES) if word in place.split()]
        for word in ("left", "right", "top", "bottom")
    },
}
"""Words for the VLM_TARGETS of a cell: target -> word -> the classes that the word names."""


def perception_labels(truths: Sequence[SceneTruth]) -> dict[str, torch.Tensor]:
    """The labels of GENERAL_TARGETS from the truth; an empty cell's colour, count, place and box are UNKNOWN.

    A cell contains at most one object.
    """
    rows = len(truths)
    labels = {
        "scene_class": torch.tensor([_SCENES.index(truth.scene_class) for truth in truths]).unsqueeze(1),
        "cell_object": torch.zeros(rows, _CELLS, 1, dtype=torch.int64),
        "cell_colour": torch.full((rows, _CELLS, 1), UNKNOWN),
        "cell_number": torch.arange(_CELLS).view(1, _CELLS, 1).expand(rows, -1, -1),
        "group_count": torch.full((rows, _CELLS, 1), UNKNOWN),
        "group_place": torch.full((rows, _CELLS, 1), UNKNOWN),
        "box_tens": torch.full((rows, _CELLS, 4), UNKNOWN),
        "box_units": torch.full((rows, _CELLS, 4), UNKNOWN),
    }
    for row, truth in enumerate(truths):
        for group in truth.groups:
            for box in group.boxes:
                x0, y0, x1, y1 = box
                cell = int((y0 + y1) / 2 // CELL) * (IMAGE_SIZE // CELL) + int((x0 + x1) / 2 // CELL)
                labels["cell_object"][row, cell, 0] = 1 + _OBJECTS.index(group.object_class)
                labels["cell_colour"][row, cell, 0] = _COLOURS.index(group.colour)
                labels["group_count"][row, cell, 0] = group.count - 1
                labels["group_place"][row, cell, 0] = _PLACES.index(group.place)
                labels["box_tens"][row, cell] = torch.tensor(box) // 10
                labels["box_units"][row, cell] = torch.tensor(box) % 10
    return labels


class ScenePool:
    """Scenes of the given seeds, rendered once and kept: images (n, 64, 64, 3) uint8, 12 kB per scene."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.truths = [sample_scene(seed) for seed in seeds]
        self.images = np.empty((len(self.truths), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        for row, truth in enumerate(tqdm(self.truths, desc="render scenes", leave=False)):
            self.images[row] = render(truth)
        self.labels = perception_labels(self.truths)


class SceneMaterial:
    """The `Material` of the shipped models: right and poor texts about scenes, so that their language stays basic.

    Fine-tuning on good texts can improve colours, places, numbers and boxes, which these models get wrong often.
    """

    image_size = IMAGE_SIZE
    vlm_targets = VLM_TARGETS
    clip_targets = TARGETS
    smoothing = 0.0
    faults = FAULTS
    words = WORDS

    def __init__(self, scenes: int, seed: int) -> None:
        self._pool = ScenePool(PRETRAIN_SEEDS[seed * scenes : (seed + 1) * scenes])

    def texts(self) -> Iterable[str]:
        """Captions, questions and answers of all kinds, and the words of chat and reasoning templates."""
        yield from [
            CAPTION_PROMPT,
            "system user assistant",
            "You are a helpful assistant.",
            *_REASONING,
        ] * 20
        rng = np.random.default_rng(0)
        for truth in self._pool.truths[:_TOKENIZER_SCENES]:
            for caption in CAPTIONERS.values():
                yield caption(truth, rng)
            for question in instruction_questions(truth, rng):
                yield question.question
                yield question.answer

    def perception_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Labels]:
        rows = self._draw(rng, size)
        return self._pool.images[rows], {name: values[rows] for name, values in self._pool.labels.items()}

    def language_batch(self, rng: np.random.Generator, size: int, part: int) -> tuple[np.ndarray, Sequence[Text]]:
        """Images, each with a caption, questions and texts to match."""
        matched, shares = _MATCHED_CAPTIONS[part], FAULT_SHARES[part]
        rows = self._draw(rng, size)
        texts: list[Text] = []
        for position, row in enumerate(rows):
            truth, other = self._pool.truths[row], self._pool.truths[self._draw(rng, 1)[0]]
            texts.append(Answered(position, CAPTION_PROMPT, self._caption(truth, rng)))
            asked = [q for q in instruction_questions(truth, rng) if rng.random() < QUESTION_SHARE[q.task]]
            for question in asked[:_MAX_QUESTIONS]:
                answerer = drawn(ANSWER_MIX, rng, ANSWERERS)
                texts.append(Answered(position, question.question, answerer(truth, question)))
            texts += [matched_caption(position, truth, shares, rng) for _ in range(matched)]
            if truth.groups:
                texts += [matched_statement(position, truth, shares, rng) for _ in range(matched)]
            texts += [matched_answer(position, truth, question, other, shares, rng) for question in asked[:matched]]
        return self._pool.images[rows], texts

    def caption_batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, Sequence[str]]:
        rows = self._draw(rng, size)
        return self._pool.images[rows], [self._caption(self._pool.truths[row], rng) for row in rows]

    def _caption(self, truth: SceneTruth, rng: np.random.Generator) -> str:
        return drawn(CAPTION_MIX, rng, CAPTIONERS)(truth, rng)

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.integers(len(self._pool.truths), size=size)


def drawn(mix: Mapping[str, float], rng: np.random.Generator, table: Mapping[str, _Writer]) -> _Writer:
    """One of the table's writers, drawn by the mix's shares."""
    names = list(mix)
    return table[names[rng.choice(len(names), p=np.array(list(mix.values())))]]
