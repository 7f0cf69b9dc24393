"""The five quality dimensions of an answer, marked from the truth graph.

Correctness decides relevance and completeness; form and length slightly affect clarity and richness. An unanswerable
question answered "it cannot be told, because ..." is right (paper, five quality dimensions).
"""

from __future__ import annotations

import re

from rsqa_pipeline.answer_matching import read_letter, same_answer, words_of
from rsqa_pipeline.boxes import MIN_IOU, iou, read_one_box
from rsqa_pipeline.scenes.asking import LETTERS, Question, UnknownQuestionError, ask, is_unanswerable
from rsqa_pipeline.scenes.caption_marks import Marks, absent_mentions, bounded, mark_caption, relevance
from rsqa_pipeline.scenes.claims import Claims, read_claims
from rsqa_pipeline.scenes.fluency import clarity
from rsqa_pipeline.scenes.truth import SceneTruth

_SHORT_ANSWER_WORDS = 12
"""Words. A longer close-ended answer loses clarity."""
_MAX_READ_CHARACTERS = 1000
"""An answer is looked for in the first characters of a text."""
_FORMS = {
    "presence": ("yes", "no"),
    "comparison": ("yes", "no"),
    "rural_urban": ("rural", "urban"),
}
_REFUSAL = re.compile(r"\b(cannot|can not|can't|not possible|impossible)\b")


def mark_answer(truth: SceneTruth, question: str, answer: str) -> Marks:
    """Marks of any answer to a question about the scene. Never fails.

    A question that matches none of the scenes' own forms has no known answer. Its answer is marked like a caption, as
    a statement about the image.
    """
    claims = read_claims(answer)
    if claims.words == 0 and not re.search(r"\w", answer[:_MAX_READ_CHARACTERS]):
        return Marks(1.0, 1.0, 1.0, 1.0, 1.0)
    try:
        asked = ask(truth, question)
    except UnknownQuestionError:
        return mark_caption(truth, answer)
    if is_unanswerable(question):
        return _mark_unanswerable(asked, answer)
    if asked.open_ended:
        return _mark_statement(truth, asked, answer, claims)
    return _mark_short(asked, answer, claims)


def correctness(question: Question, answer: str) -> float:
    """Correctness of a close-ended answer: 1 right, 0 wrong or unreadable; for a box its IoU if a hit, else 0."""
    return _read(question, answer)[1]


def _read(question: Question, answer: str) -> tuple[bool, float]:
    """Whether the answer has the requested form, and its correctness, 0..1."""
    text = answer[:_MAX_READ_CHARACTERS]
    if question.task == "choice":
        letter = read_letter(text)
        return letter in LETTERS, float(letter == question.answer)
    if question.task == "grounding":
        box = read_one_box(text)
        if not question.boxes:
            return box is not None, float(same_answer(text, question.answer))
        overlap = iou(box, question.boxes[0]) if box else 0.0
        return box is not None, overlap if overlap >= MIN_IOU else 0.0
    if question.task == "scene_class":
        named = read_claims(text).scenes
        return len(named) == 1, float(named == read_claims(question.answer).scenes)
    values = set(_values(question.task, text))
    return len(values) == 1, float(values == {question.answer})


def _values(task: str, text: str) -> list[str]:
    """Every value of the task's kind in the text, with numbers as digits."""
    words = words_of(text)
    return [word for word in words if (word.isdigit() if task == "count" else word in _FORMS[task])]


def _mark_short(question: Question, answer: str, claims: Claims) -> Marks:
    formed, right = _read(question, answer)
    wordy = 1.5 if claims.words > _SHORT_ANSWER_WORDS else 0.0
    bare = question.task in ("choice", "grounding") or formed
    return Marks(
        relevance=bounded(1.0 + 4.0 * right),
        specificity=bounded((2.0 if formed else 1.0) + 3.0 * right),
        completeness=bounded(1.0 + 4.0 * right),
        clarity=bounded((5.0 if bare and not wordy else clarity(answer)) - wordy),
        richness=bounded(1.0 + 2.0 * formed + 2.0 * right),
    )


def _mark_unanswerable(question: Question, answer: str) -> Marks:
    honest = _REFUSAL.search(answer[:_MAX_READ_CHARACTERS].lower()) is not None
    reason = question.answer.partition("because ")[2].rstrip(".")
    given = honest and reason in answer.lower()
    partly = honest and "because" in answer.lower()
    return Marks(
        relevance=5.0 if honest else 1.0,
        specificity=5.0 if given else 3.0 if honest else 1.0,
        completeness=5.0 if given else 4.0 if partly else 3.0 if honest else 1.0,
        clarity=clarity(answer),
        richness=5.0 if given else 3.0 if honest else 2.0,
    )


def _mark_statement(truth: SceneTruth, question: Question, answer: str, claims: Claims) -> Marks:
    expected, given = _items(read_claims(question.answer)), _items(claims)
    covered = len(expected & given) / max(1, len(expected))
    true = relevance(truth, claims)
    false_absence = any(m.count == 0 and truth.count_of(m.object_class) for m in claims.mentions)
    right = 0.0 if false_absence else covered
    wrong = len(absent_mentions(truth, claims)) + len(claims.aliens)
    named = {item for item in expected if item[0] in ("object", "scene", "cover", "none")}
    return Marks(
        relevance=1.0 if false_absence else true if covered else min(true, 1.5),
        specificity=bounded(1.0 + 4.0 * right - wrong - 0.5 * min(2, claims.vague_words)),
        completeness=bounded(1.0 + 4.0 * right),
        clarity=bounded(clarity(answer) - (0.5 if claims.words > 4 * _SHORT_ANSWER_WORDS else 0.0)),
        richness=bounded(1.0 + 4.0 * len(named & given) / max(1, len(named))),
    )


def _items(claims: Claims) -> set[tuple[str, ...]]:
    """Claims as a set of single statements, for comparing two texts."""
    items: set[tuple[str, ...]] = {("scene", scene) for scene in claims.scenes}
    items |= {("cover", cover) for cover in claims.covers}
    for mention in claims.mentions:
        name = mention.object_class
        if mention.count == 0:
            items.add(("none", name))
            continue
        items.add(("object", name))
        attributes = {"count": mention.count, "colour": mention.colour, "place": mention.place}
        items |= {(key, name, str(value)) for key, value in attributes.items() if value is not None}
        if mention.relation:
            items.add(("relation", name, *mention.relation))
    return items
