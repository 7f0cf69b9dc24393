"""Instruction preferences (paper, VIPD): close-ended questions need no judge, open-ended answers are judged.

Close-ended: the right answer against wrong ones, by the VLM and by answerers with the habits that the instruction
corpus has. Open-ended: the stored answer, other answerers and two answers of the VLM compete; the stored one is not
taken to be the best, as many are short, empty or wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, get_args

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images import ImageFault
from rsqa_pipeline.models.load import base_model, load_vlm
from rsqa_pipeline.preference_data.answers import (
    OPEN,
    REFERENCE,
    class_answers,
    is_right,
    other_references,
    question_of,
    scene_answers,
    wrong_answers,
)
from rsqa_pipeline.preference_data.build_pairs import Pairs, judge_all, plain_pair
from rsqa_pipeline.preference_data.candidate import (
    NO_FAULT,
    Candidate,
    Subject,
    pair_split,
    preference_rows,
    scenes_of,
)
from rsqa_pipeline.preference_data.captioners import VLM
from rsqa_pipeline.preference_data.judge import JudgeRequest, TruthGraphJudge, make_judge
from rsqa_pipeline.preference_data.vlm_texts import sample_texts
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.scenes.asking import UnknownQuestionError, ask
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs.class_questions import ClassTask
from rsqa_pipeline.source_pairs.split import unit_hash
from rsqa_pipeline.tracking.run_logger import RunLogger

STAGE = "instruction_preferences"
VLM_ANSWERS = 2
"""Answers of the VLM to each question (paper: two VLMs)."""


@dataclass
class Item:
    """A question about an image, its right answer where that is known, and all that was answered."""

    subject: Subject
    reference: str
    answers: list[Candidate]
    by_vlm: list[Candidate] = field(default_factory=list)


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes pairs.parquet, judgements.parquet and quarantine.parquet.

    Raises:
        DataError: no instruction sample is set aside for preferences.
    """
    preferences, seed = settings.preference_data, settings.seed
    rows = [row for row in preference_rows(inputs["instruction_samples"]) if len(row["messages"]) > 1]
    if not rows:
        raise DataError(
            f"{inputs['instruction_samples']}: no sample of split 'preference'; see source_pairs.preference_share"
        )
    scenes = scenes_of(rows)
    pairs = Pairs(STAGE)
    items = _items(balanced_by_task(rows, preferences.instruction_samples, seed), rows, scenes, seed, pairs)
    _ask_vlm(inputs["base_models"], items, settings, pairs)
    metrics = _close_ended([item for item in items if item.subject.task != OPEN], scenes, settings, pairs)
    _open_ended([item for item in items if item.subject.task == OPEN], scenes, settings, pairs)
    metrics = {**pairs.write(out), **metrics, "questions": float(len(items))}
    logger.log_params({"judge": preferences.judge, "vlm_answers": VLM_ANSWERS})
    logger.log_metrics(metrics)
    return metrics


def balanced_by_task(rows: Sequence[Mapping[str, Any]], limit: int, seed: int) -> list[Mapping[str, Any]]:
    """At most ``limit`` rows, the tasks in turn as long as they have rows; within a task drawn by hash."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: unit_hash(str(seed), STAGE, row["sample_id"])):
        tasks.setdefault(row["task"], []).append(row)
    turns = zip_longest(*(tasks[task] for task in sorted(tasks)))
    return [row for row in chain.from_iterable(turns) if row is not None][:limit]


def _items(
    chosen: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    scenes: Mapping[str, int],
    seed: int,
    pairs: Pairs,
) -> list[Item]:
    """The chosen rows' questions, each once, with all answers but the VLM's; one of no known form is quarantined."""
    classes = sorted({row["scene_class"] for row in rows if row["scene_class"]})
    items: dict[str, Item] = {}
    for row in chosen:
        *context, last = row["messages"]
        subject = Subject(row["image_id"], row["image"], tuple(context), row["task"])
        original = last["content"] if row["original_text"] is None else row["original_text"]
        fault = row["corruption"] or (NO_FAULT if subject.image_id not in scenes else None)
        stored = Candidate(subject, last["content"], row["source"], fault)
        if subject.key in items:
            items[subject.key].answers.append(stored)
            continue
        try:
            reference, answers = _answers(subject, original, row["scene_class"], scenes, classes, seed)
        except UnknownQuestionError as error:
            pairs.refuse(row["sample_id"], "unknown_question", str(error))
            continue
        items[subject.key] = Item(subject, reference, [stored, *answers])
    return list(items.values())


def _answers(
    subject: Subject,
    original: str,
    scene_class: str | None,
    scenes: Mapping[str, int],
    classes: list[str],
    seed: int,
) -> tuple[str, list[Candidate]]:
    """The reference, and what the answerers at hand say besides the stored answer."""
    if subject.image_id in scenes:
        truth = sample_scene(scenes[subject.image_id])
        return ask(truth, question_of(subject)).answer, scene_answers(subject, truth, seed)
    if scene_class is not None and subject.task in get_args(ClassTask):
        return original, class_answers(subject, scene_class, original, classes)
    return original, [Candidate(subject, original, REFERENCE, NO_FAULT)]


def _ask_vlm(base_models: Path, items: Sequence[Item], settings: Profile, pairs: Pairs) -> None:
    """Adds the VLM's answers to the items; one whose image cannot be opened is quarantined and has none."""
    vlm = load_vlm(base_model(base_models, "vlm"), settings.compute)
    subjects = [item.subject for item in items]
    answered = sample_texts(vlm, subjects, settings.preference_data.sampling, settings.seed, VLM_ANSWERS)
    for item, (subject, texts) in zip(items, answered, strict=True):
        if isinstance(texts, ImageFault):
            pairs.refuse(subject.key, texts.reason, texts.detail)
        else:
            item.by_vlm = [Candidate(subject, text, VLM) for text in texts]


def _close_ended(items: Sequence[Item], scenes: Mapping[str, int], settings: Profile, pairs: Pairs) -> Metrics:
    """Pairs (reference, wrong answer), and how often the VLM was right."""
    references = {item.subject.key: item.reference for item in items}
    others = other_references([item.subject for item in items], references, settings.seed)
    truth = TruthGraphJudge(scenes, 0.0, settings.seed)
    right: Counter[bool] = Counter()
    for item in items:
        subject = item.subject
        right.update(is_right(subject.task, answer.text, item.reference) for answer in item.by_vlm)
        always = [*item.by_vlm, others[subject.key]] if subject.key in others else item.by_vlm
        wrong = wrong_answers(subject.task, item.reference, item.answers, always, settings.seed)
        best = Candidate(subject, item.reference, REFERENCE, NO_FAULT)
        split = pair_split(subject.image_id, settings.preference_data.heldout_share, settings.seed)
        texts = [best, *wrong]
        marks = [
            j.true_mark for j in truth.mark([JudgeRequest(subject.image_id, subject.context, c.text) for c in texts])
        ]
        for answer, mark in zip(wrong, marks[1:], strict=True):
            margin = marks[0] - mark if marks[0] is not None and mark is not None else None
            if margin is not None and margin <= 0:
                continue  # worded otherwise, but right by the truth: "3 ships" for "3"
            pairs.add({**plain_pair(best, answer, "close_ended", REFERENCE, split), "true_margin": margin})
    asked = right[True] + right[False]
    return {"vlm_right_close_ended": right[True] / asked, "vlm_close_ended_answers": float(asked)} if asked else {}


def _open_ended(items: Sequence[Item], scenes: Mapping[str, int], settings: Profile, pairs: Pairs) -> None:
    """Pairs of the best-marked answer against the others."""
    preferences = settings.preference_data
    candidates = [answer for item in items for answer in (*item.answers, *item.by_vlm)]
    judge = make_judge(preferences, scenes, candidates, settings.seed)
    for judged in judge_all(candidates, judge):
        split = pair_split(judged[0].candidate.subject.image_id, preferences.heldout_share, settings.seed)
        pairs.add_ranked(judged, "open_ended", judge.name, split)
