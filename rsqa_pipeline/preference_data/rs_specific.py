"""RS-specific questions: hand-written, one per image, reworded by a model, answered by several (paper, VIPD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.preference_data.candidate import Candidate, Subject
from rsqa_pipeline.preference_data.chat.model import ChatModel
from rsqa_pipeline.preference_data.chat.request import ChatRequest, NoReply
from rsqa_pipeline.preference_data.model_texts import ModelWriters, reply_fault
from rsqa_pipeline.profile.preference_data import RsSpecific
from rsqa_pipeline.records import Message, sha256
from rsqa_pipeline.source_pairs.split import unit_hash

TASK = "rs_specific"
QUESTIONS = Path(__file__).parent / "rs_questions.yaml"
MAX_QUESTION_CHARACTERS = 400
"""Limit for a reworded question; the original ones have at most 110 characters."""
_REPHRASE = """\
Word the following question about a satellite or aerial image in another way. Keep what it asks for, all of it, and \
add nothing. Reply with the new question alone, on one line.

Question: {question}"""


@cache
def rs_questions() -> dict[str, list[str]]:
    """Five questions per category, for the paper's twelve categories."""
    found: dict[str, list[str]] = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return found


def drawn_question(image_id: str, seed: int) -> tuple[str, str]:
    """Category and question for an image, drawn by hash: independent of the order of the images."""
    every = [(category, question) for category, questions in rs_questions().items() for question in questions]
    return every[int(unit_hash(str(seed), TASK, image_id) * len(every))]


def rephrase_prompt(question: str) -> tuple[Message, ...]:
    """The prompt for the rephraser, which does not see the image."""
    return (Message(role="user", content=_REPHRASE.format(question=question)),)


def rs_specific_answers(
    rows: Sequence[Mapping[str, Any]], settings: RsSpecific, writers: ModelWriters
) -> list[Candidate]:
    """Each answerer's answer to one question per drawn image; unusable answers are quarantined.

    Args:
        rows: samples set aside for preferences.
    """
    seed = writers.settings.seed
    references = {row["image_id"]: row["image"] for row in rows}
    drawn = sorted(references, key=lambda image_id: sha256(str(seed), TASK, image_id))[: settings.images]
    subjects = [_subject(image_id, references[image_id], drawn_question(image_id, seed)[1]) for image_id in drawn]
    if settings.rephraser is not None:
        subjects = _reworded(subjects, writers.models[settings.rephraser], writers)
    return [answer for name in settings.answerers for answer in writers.write(name, subjects, samples=1)]


def _subject(image_id: str, image: str, question: str) -> Subject:
    return Subject(image_id, image, (Message(role="user", content=question),), TASK)


def _reworded(subjects: Sequence[Subject], model: ChatModel, writers: ModelWriters) -> list[Subject]:
    """The subjects with reworded questions; a subject without a usable rewording is quarantined."""
    sampling, pairs = writers.settings.preference_data.sampling, writers.pairs
    requests = [
        ChatRequest(
            rephrase_prompt(subject.context[0]["content"]),
            subject.image_id,  # the image is not shown, but each one gets its own wording
            None,
            sampling.max_new_tokens,
            sampling.temperature,
            sampling.top_p,
            draw=writers.settings.seed,
        )
        for subject in subjects
    ]
    reworded = []
    for subject, request, reply in zip(subjects, requests, model.ask(requests), strict=True):
        fault = reply_fault(reply)
        if isinstance(reply, NoReply) or fault is not None:
            reason, detail = fault or ("", "")
            pairs.quarantine.add(subject.key, reason, f"rephraser {model.name}: {detail}")
        elif len(reply.text) > MAX_QUESTION_CHARACTERS or "\n" in reply.text:
            detail = f"needs one line of at most {MAX_QUESTION_CHARACTERS} characters, found {reply.text[:120]!r}"
            pairs.quarantine.add(subject.key, "bad_rephrasing", f"rephraser {model.name}: {detail}")
        else:
            reworded.append(replace(subject, context=(Message(role="user", content=reply.text),)))
            pairs.add_generation("rephrase", subject.image_id, model.name, reply, model.settings.model, request)
    return reworded
