"""Questions about scenes: for instruction tuning, and for benchmarks on held-out scenes.

Close-ended (presence, count, comparison, rural or urban, scene class), open-ended (some unanswerable), grounding
boxes in pixels, and multiple choice in LHRS-Bench's format. `asking.ask` gives the right answers.
"""

from __future__ import annotations

import numpy as np

from rsqa_pipeline.scenes.answerers import ANSWERERS
from rsqa_pipeline.scenes.asking import UNANSWERABLE, Question, ask, choice_text
from rsqa_pipeline.scenes.truth import SceneTruth
from rsqa_pipeline.scenes.vocabulary import COLOURS, OBJECTS, PLACES, SCENES

__all__ = ["ANSWERERS", "BENCHMARK_TASKS", "TASKS", "Question", "ask", "benchmark_questions", "instruction_questions"]

TASKS = ("scene_class", "presence", "count", "comparison", "rural_urban", "open", "grounding", "choice")
BENCHMARK_TASKS = ("presence", "count", "comparison", "rural_urban", "grounding", "choice")


def instruction_questions(truth: SceneTruth, rng: np.random.Generator) -> list[Question]:
    """One question per task and a second open-ended one, in random order; no grounding if no group is one object."""
    texts = [_question(task, truth, rng) for task in TASKS]
    texts.append(_open(truth, rng))
    unique = list(dict.fromkeys(text for text in texts if text))
    return [ask(truth, unique[i]) for i in rng.permutation(len(unique))]


def benchmark_questions(truth: SceneTruth, rng: np.random.Generator) -> list[Question]:
    """One question per benchmark task, in the order of `BENCHMARK_TASKS`; no grounding if no group is one object.

    The right answer to presence and comparison is "yes" about as often as "no".
    """
    texts = [_question(task, truth, rng) for task in BENCHMARK_TASKS]
    return [ask(truth, text) for text in texts if text]


def _question(task: str, truth: SceneTruth, rng: np.random.Generator) -> str | None:
    if task == "grounding":
        single = [group for group in truth.groups if group.count == 1]
        if not single:
            return None
        group = single[rng.integers(len(single))]
        return f"where is the {group.colour} {group.object_class}? give its box."
    if task == "comparison":
        more, fewer = _comparison_pair(truth, rng)
        return f"are there more {more}s than {fewer}s?"
    if task == "open":
        return _open(truth, rng)
    if task == "choice":
        return _choice(truth, rng)
    if task == "presence":
        return f"are there any {_noun(truth, rng, 0.53)}s in this image?"
    if task == "count":
        return f"how many {_noun(truth, rng, 0.87)}s are there?"
    fixed = {"rural_urban": "is this a rural or an urban area?", "scene_class": "what class of scene is this?"}
    return fixed[task]


def _noun(truth: SceneTruth, rng: np.random.Generator, present: float) -> str:
    """An object class in the image with probability ``present``; otherwise, or if there is none, an absent one."""
    shown = [group.object_class for group in truth.groups]
    if shown and rng.random() < present:
        return shown[rng.integers(len(shown))]
    return _absent(truth, rng)


def _absent(truth: SceneTruth, rng: np.random.Generator) -> str:
    """An object class not in the image; half of the time one that is typical of the scene class."""
    likely = [name for name in SCENES[truth.scene_class].objects if not truth.count_of(name)]
    if likely and rng.random() < 0.5:
        return likely[rng.integers(len(likely))]
    absent = [name for name in OBJECTS if not truth.count_of(name)]
    return absent[rng.integers(len(absent))]


def _comparison_pair(truth: SceneTruth, rng: np.random.Generator) -> tuple[str, str]:
    """Two object classes, the first more frequent in half of the questions."""
    if not truth.groups:
        first = _absent(truth, rng)
        rest = [name for name in OBJECTS if name != first]
        return first, rest[rng.integers(len(rest))]
    if len(truth.groups) == 2:
        pair = [group.object_class for group in truth.groups]
    else:
        pair = [truth.groups[0].object_class, _absent(truth, rng)]
    pair.sort(key=truth.count_of)
    fewer, more = pair
    return (more, fewer) if rng.random() < 0.59 else (fewer, more)


def _open(truth: SceneTruth, rng: np.random.Generator) -> str:
    kind = int(rng.integers(7))
    if kind == 0:
        return "describe this image."
    if kind == 1:
        return "what land cover does this image show?"
    if kind == 2:
        texts = list(UNANSWERABLE)
        return texts[rng.integers(len(texts))].format(_noun(truth, rng, 1.0))
    noun = _noun(truth, rng, 0.9)
    if kind == 3 and len(truth.groups) == 2:
        first, second = (truth.groups[i].object_class for i in rng.permutation(2))
        return f"where are the {first}s from the {second}s?"
    if kind <= 4:
        return f"describe the {noun}s."
    return f"where is the {noun}?" if truth.count_of(noun) == 1 else f"where are the {noun}s?"


def _choice(truth: SceneTruth, rng: np.random.Generator) -> str:
    group = truth.groups[rng.integers(len(truth.groups))] if truth.groups else None
    kind = int(rng.integers(5)) if group else 0
    if group is None or kind == 0:
        return _options("which class of scene is this?", SCENES[truth.scene_class].name,
                        [kind.name for kind in SCENES.values()], rng)  # fmt: skip
    if kind == 1:
        main = truth.groups[0].object_class
        absent = [f"{name}s" for name in OBJECTS if not truth.count_of(name)]
        return _options("which objects are in this image?", f"{main}s", absent, rng)
    noun = group.object_class
    if kind == 2:
        numbers = [str(n) for n in range(1, 7)]
        return _options(f"how many {noun}s does this image show?", str(group.count), numbers, rng)
    if kind == 3:
        return _options(f"which colour do the {noun}s have?", group.colour, list(COLOURS), rng)
    return _options(f"in which part of the image are the {noun}s?", group.place, contradicting_places(group.place), rng)


def contradicting_places(place: str) -> list[str]:
    """Places that are clearly wrong: they neither contain the place nor lie within it."""
    x, y = PLACES[place]
    return [other for other, (ox, oy) in PLACES.items() if x * ox + y * oy <= 0 and (x * ox < 0 or y * oy < 0)]


def _options(stem: str, right: str, pool: list[str], rng: np.random.Generator) -> str:
    wrong = [text for text in pool if text != right]
    choices = [right] + [wrong[i] for i in rng.permutation(len(wrong))[:3]]
    return choice_text(stem, tuple(choices[i] for i in rng.permutation(4)))
