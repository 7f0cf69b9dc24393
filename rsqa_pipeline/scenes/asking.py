"""Question texts, answered from a truth graph. `ask(truth, text)` is the only function that knows the right answers.

Question writers produce only text, so a question read from a table or a prompt gets the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rsqa_pipeline.scenes.truth import Box, Group, SceneTruth, relations
from rsqa_pipeline.scenes.vocabulary import (
    COLOURS,
    OBJECTS,
    PLACE_PHRASES,
    SCENES,
    activity,
    count_phrase,
)

LETTERS = ("A", "B", "C", "D")
LETTER_PROMPT = "answer with one letter."
UNANSWERABLE = {
    "who owns this place?": "an aerial image does not show owners",
    "what is the name of this place?": "an aerial image does not show names",
    "when was this image taken?": "an aerial image does not show the time",
    "what is inside the {}s?": "an aerial image shows their outside only",
    "how old are the {}s?": "an aerial image does not show age",
    "how fast are the {}s moving?": "one image does not show speed",
}


@dataclass(frozen=True)
class Question:
    """A question about one scene, with its right answer."""

    task: str
    """presence | count | comparison | rural_urban | scene_class | open | grounding | choice"""
    question: str
    answer: str
    choices: tuple[str, ...] | None = None
    """Multiple choice: the texts of A, B, C, D."""
    boxes: tuple[Box, ...] | None = None
    """Grounding: the right box, in pixels."""
    open_ended: bool = False


class UnknownQuestionError(ValueError):
    """The text is not a question that this module can answer from a truth graph."""


_NOUN = "(" + "|".join(OBJECTS) + ")"
_COLOUR = "(" + "|".join(COLOURS) + ")"
Answerer = Callable[[SceneTruth, re.Match[str]], str]


def ask(truth: SceneTruth, text: str) -> Question:
    """Parses the text of a question about the scene and adds the right answer.

    Raises:
        UnknownQuestionError: the text matches no question form of this package.
    """
    text = text.strip()
    if text.endswith(LETTER_PROMPT):
        return _choice(truth, text)
    for task, pattern, answer in _FORMS:
        if match := pattern.fullmatch(text):
            boxes = None
            if task == "grounding":
                group = truth.group_of(match[2])
                boxes = group.boxes if group else None
            return Question(task, text, answer(truth, match), boxes=boxes, open_ended=task == "open")
    raise UnknownQuestionError(f"no question form of the scenes fits {text[:80]!r}")


def is_unanswerable(text: str) -> bool:
    """Whether an image cannot answer this question; the right answer then says so and why."""
    return any(pattern.fullmatch(text.strip()) for pattern, _ in _UNANSWERABLE_FORMS)


def refusal(why: str) -> str:
    """The right answer to a question that an image cannot answer; ``why`` is a value of `UNANSWERABLE`."""
    return f"it cannot be told, because {why}."


def choice_text(stem: str, choices: tuple[str, ...]) -> str:
    """A multiple-choice question in LHRS-Bench's format: stem, four lettered lines, the prompt for a letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([stem, *lines, LETTER_PROMPT])


def format_box(box: Box) -> str:
    """ "[x0, y0, x1, y1]" in whole pixels."""
    return f"[{box[0]}, {box[1]}, {box[2]}, {box[3]}]"


def _choice(truth: SceneTruth, text: str) -> Question:
    lines = text.split("\n")
    choices = tuple(line.partition(". ")[2] for line in lines[1:-1])
    if len(choices) != len(LETTERS):
        raise UnknownQuestionError(f"multiple choice needs four lettered lines, found {len(choices)} in {text[:80]!r}")
    for pattern, value in _STEMS:
        if match := pattern.fullmatch(lines[0]):
            right = value(truth, match)
            letter = LETTERS[choices.index(right)] if right in choices else LETTERS[0]
            return Question("choice", text, letter, choices=choices)
    raise UnknownQuestionError(f"no multiple-choice stem of the scenes fits {lines[0][:80]!r}")


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _where(group: Group, truth: SceneTruth) -> str:
    verb = "is" if group.count == 1 else "are"
    other = next((g for g in truth.groups if g is not group), None)
    related = relations(group.place, other.place) if other else ()
    tail = f", {related[0]} the {_plain_noun(other)}" if other and related else ""
    return f"the {_plain_noun(group)} {verb} {PLACE_PHRASES[group.place]}{tail}."


def _plain_noun(group: Group) -> str:
    return group.object_class + ("" if group.count == 1 else "s")


def _statement(group: Group, truth: SceneTruth) -> str:
    number, noun = count_phrase(group.count, group.object_class).split(" ")
    doing = activity(group.object_class, truth.scene_class)
    verb = "is" if group.count == 1 else "are"
    return f"{number} {group.colour} {noun} {verb} {doing} {PLACE_PHRASES[group.place]}."


def _absent(noun: str) -> str:
    return f"there are no {noun}s in this image."


def _about(truth: SceneTruth, match: re.Match[str], describe: Callable[[Group, SceneTruth], str]) -> str:
    group = truth.group_of(match[1])
    return describe(group, truth) if group else _absent(match[1])


def _overview(truth: SceneTruth, _: re.Match[str]) -> str:
    kind = SCENES[truth.scene_class]
    sentences = [f"this is {kind.phrase} with {kind.cover}."]
    return " ".join(sentences + [_statement(group, truth) for group in truth.groups])


def _land_cover(truth: SceneTruth, _: re.Match[str]) -> str:
    kind = SCENES[truth.scene_class]
    return f"the land cover of this {kind.name} is {kind.cover}."


def _relation(truth: SceneTruth, match: re.Match[str]) -> str:
    first, second = truth.group_of(match[1]), truth.group_of(match[2])
    if first is None or second is None:
        return _absent(match[1] if first is None else match[2])
    found = relations(first.place, second.place)
    how = found[0] if found else "near"
    return f"the {_plain_noun(first)} {'is' if first.count == 1 else 'are'} {how} the {_plain_noun(second)}."


def _grounding(truth: SceneTruth, match: re.Match[str]) -> str:
    group = truth.group_of(match[2])
    return format_box(group.boxes[0]) if group else _absent(match[2])


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace("NOUN", _NOUN).replace("COLOUR", _COLOUR))


_FORMS: tuple[tuple[str, re.Pattern[str], Answerer], ...] = (
    ("presence", _pattern("are there any NOUNs in this image?"), lambda t, m: _yes(t.count_of(m[1]) > 0)),
    ("count", _pattern("how many NOUNs are there?"), lambda t, m: str(t.count_of(m[1]))),
    ("comparison", _pattern("are there more NOUNs than NOUNs?"),
     lambda t, m: _yes(t.count_of(m[1]) > t.count_of(m[2]))),
    ("rural_urban", _pattern("is this a rural or an urban area?"),
     lambda t, m: "urban" if SCENES[t.scene_class].urban else "rural"),
    ("scene_class", _pattern("what class of scene is this?"), lambda t, m: SCENES[t.scene_class].name),
    ("grounding", _pattern("where is the COLOUR NOUN? give its box."), _grounding),
    ("open", _pattern("describe this image."), _overview),
    ("open", _pattern("describe the NOUNs."), lambda t, m: _about(t, m, _statement)),
    ("open", _pattern("where are the NOUNs?"), lambda t, m: _about(t, m, _where)),
    ("open", _pattern("where is the NOUN?"), lambda t, m: _about(t, m, _where)),
    ("open", _pattern("where are the NOUNs from the NOUNs?"), _relation),
    ("open", _pattern("what land cover does this image show?"), _land_cover),
)  # fmt: skip

_UNANSWERABLE_FORMS = tuple((_pattern(text.format("NOUN")), why) for text, why in UNANSWERABLE.items())
_FORMS += tuple(
    ("open", pattern, lambda t, m, why=why: refusal(why))  # type: ignore[misc]
    for pattern, why in _UNANSWERABLE_FORMS
)

_STEMS: tuple[tuple[re.Pattern[str], Answerer], ...] = (
    (_pattern("which class of scene is this?"), lambda t, m: SCENES[t.scene_class].name),
    (_pattern("which objects are in this image?"), lambda t, m: f"{t.groups[0].object_class}s" if t.groups else ""),
    (_pattern("how many NOUNs does this image show?"), lambda t, m: str(t.count_of(m[1]))),
    (_pattern("which colour do the NOUNs have?"), lambda t, m: g.colour if (g := t.group_of(m[1])) else ""),
    (_pattern("in which part of the image are the NOUNs?"), lambda t, m: g.place if (g := t.group_of(m[1])) else ""),
)
