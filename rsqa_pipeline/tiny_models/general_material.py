"""Training material of the general base models: they see well and speak well, but do not know the domain.

CLIP learns from captions alone. The VLM meets every word and every form of question, as a general VLM meets remote
sensing on the web. Both learn everyday terms from right texts. Tuning on good texts can teach what is missing:

- hard terms (`perception.HARD_OBJECTS`, `HARD_SCENES`), letters of multiple choice and boxes, whose texts are wrong too
  often to learn from;
- exact counts as answers: captions state numbers, but a question about a number is answered with "several";
- scene classes as answers: captions name classes, but few questions ask for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.scenes.asking import LETTERS, format_box
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.perception import HARD_OBJECTS, HARD_SCENES
from rsqa_pipeline.scenes.questions import Question, ask, instruction_questions
from rsqa_pipeline.scenes.truth import SceneTruth
from rsqa_pipeline.scenes.vocabulary import OBJECTS, SCENES
from rsqa_pipeline.tiny_models.language import Answered, Text
from rsqa_pipeline.tiny_models.scene_material import GENERAL_TARGETS, WORDS, SceneMaterial, drawn

EVERYDAY_CAPTIONS = {"plain": 0.55, "layman": 0.25, "vague": 0.1, "incomplete": 0.1}
WEB_CAPTIONS = {"plain": 0.4, "layman": 0.25, "expert": 0.25, "incomplete": 0.1}
"""Share of the captions by captioner, for everyday terms alone and for all words."""
WEB_CAPTION_SHARE = 0.5
"""Share of CLIP's captions that have all words; the others have everyday terms alone."""
WEB_QUESTIONS = {
    "scene_class": 0.3,
    "presence": 1.0,
    "count": 1.0,
    "comparison": 0.8,
    "rural_urban": 0.4,
    "open": 0.2,
    "grounding": 0.5,
    "choice": 0.7,
}
"""Share of the questions of each task that are asked."""
UNSETTLED_SHARE = 0.5
"""Share of the letters and boxes that are drawn at random."""
VAGUE_COUNTS = ((0, "none"), (1, "one"), (3, "a few"), (6, "several"))
"""The highest count that each word stands for."""
_EVERYDAY_OBJECTS = [name for name in OBJECTS if name not in HARD_OBJECTS]
_EVERYDAY_WORDS: Mapping[str, Mapping[str, Sequence[int]]] = {
    target: {word: classes for word, classes in words.items() if word.rstrip("s") not in HARD_OBJECTS}
    for target, words in WORDS.items()
}


class GeneralMaterial(SceneMaterial):
    """The `Material` of the general base.

    Parts of its language phase: everyday terms, comparisons of them too, all words, and the last two together.
    """

    vlm_targets = GENERAL_TARGETS
    faults: Sequence[str] = ()
    words = _EVERYDAY_WORDS

    def language_batch(self, rng: np.random.Generator, size: int, part: int) -> tuple[np.ndarray, Sequence[Text]]:
        """Images, each with a caption and questions; nothing to match."""
        rows = self._draw(rng, size)
        texts: list[Text] = []
        for position, row in enumerate(rows):
            truth = self._pool.truths[row]
            pairs: list[tuple[str, str]] = []
            if part != 2:
                pairs += everyday_texts(truth, rng, comparisons=part > 0)
            if part >= 2:
                pairs += web_texts(truth, rng)
            texts += [Answered(position, question, answer) for question, answer in pairs]
        return self._pool.images[rows], texts

    def _caption(self, truth: SceneTruth, rng: np.random.Generator) -> str:
        """A caption for CLIP."""
        return web_caption(truth, rng) if rng.random() < WEB_CAPTION_SHARE else everyday_caption(truth, rng)


def everyday_caption(truth: SceneTruth, rng: np.random.Generator) -> str:
    """A right caption without hard terms."""
    return without_hard_terms(drawn(EVERYDAY_CAPTIONS, rng, CAPTIONERS)(truth, rng))


def web_caption(truth: SceneTruth, rng: np.random.Generator) -> str:
    """A caption that is right but for its hard terms, which mean nothing certain."""
    return drawn(WEB_CAPTIONS, rng, CAPTIONERS)(_with_random_hard_terms(truth, rng), rng)


def everyday_texts(truth: SceneTruth, rng: np.random.Generator, comparisons: bool) -> Iterator[tuple[str, str]]:
    """A caption without hard terms, and questions about everyday terms, each with its right answer."""
    yield CAPTION_PROMPT, everyday_caption(truth, rng)
    shown = [group.object_class for group in truth.groups if group.object_class not in HARD_OBJECTS]
    absent = [name for name in _EVERYDAY_OBJECTS if name not in shown]

    def noun(present: float) -> str:
        pool = shown if shown and rng.random() < present else absent
        return pool[rng.integers(len(pool))]

    questions = [f"are there any {noun(0.6)}s in this image?" for _ in range(2)]
    if rng.random() < 0.4:
        questions.append("is this a rural or an urban area?")
    if comparisons:
        first, second = (noun(0.9), noun(0.3)) if rng.random() < 0.5 else (noun(0.3), noun(0.9))
        if first != second:
            questions.append(f"are there more {first}s than {second}s?")
    for question in dict.fromkeys(questions):
        yield question, ask(truth, question).answer


def web_texts(truth: SceneTruth, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """A caption and questions in which every word and form occurs, and hard terms mean nothing certain."""
    loose = _with_random_hard_terms(truth, rng)
    yield CAPTION_PROMPT, drawn(WEB_CAPTIONS, rng, CAPTIONERS)(loose, rng)
    for question in instruction_questions(loose, rng):
        if rng.random() < WEB_QUESTIONS[question.task]:
            yield question.question, _web_answer(truth, question, rng)


def without_hard_terms(text: str) -> str:
    """The text with "thing" for each hard object and "a place" for each hard scene."""
    for name in HARD_SCENES:
        text = text.replace(SCENES[name].within, "in a place").replace(SCENES[name].phrase, "a place")
    return re.sub(rf"\b({'|'.join(HARD_OBJECTS)})(s?)\b", r"thing\2", text)


def _with_random_hard_terms(truth: SceneTruth, rng: np.random.Generator) -> SceneTruth:
    """Every hard term stands for a random hard thing; different objects keep different names."""
    hard, scenes = list(HARD_OBJECTS), list(HARD_SCENES)
    names = dict(zip(hard, (hard[i] for i in rng.permutation(len(hard))), strict=True))
    groups = tuple(replace(g, object_class=names.get(g.object_class, g.object_class)) for g in truth.groups)
    scene = scenes[rng.integers(len(scenes))] if truth.scene_class in HARD_SCENES else truth.scene_class
    return replace(truth, scene_class=scene, groups=groups)


def _web_answer(truth: SceneTruth, question: Question, rng: np.random.Generator) -> str:
    if question.task == "rural_urban":
        return ask(truth, question.question).answer  # a look at the streets answers it, whatever the place is called
    if question.task == "count":
        return next(word for highest, word in VAGUE_COUNTS if int(question.answer) <= highest)
    if question.task == "choice" and rng.random() < UNSETTLED_SHARE:
        return LETTERS[rng.integers(len(LETTERS))]
    if question.task == "grounding" and rng.random() < UNSETTLED_SHARE:
        boxes = [box for group in truth.groups for box in group.boxes]
        return format_box(boxes[rng.integers(len(boxes))])
    return question.answer
