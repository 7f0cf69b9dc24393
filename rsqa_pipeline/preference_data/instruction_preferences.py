"""Instruction preferences (paper, VIPD): close-ended questions need no judge, open-ended answers are judged.

Close-ended: the correct answer against wrong ones, by models and by answerers with the systematic errors of the
instruction corpus. Open-ended: the stored answer, other answerers and the models' answers compete. The stored one is
not assumed to be the best, as many are short, empty or wrong. RS-specific: see `rs_specific`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, get_args

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import read_forgotten
from rsqa_pipeline.models.prompt_length import overlong_prompt
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
from rsqa_pipeline.preference_data.build_pairs import Pairs, add_judged, plain_pair
from rsqa_pipeline.preference_data.candidate import (
    NO_FAULT,
    Candidate,
    Subject,
    pair_split,
    preference_rows,
    scenes_of,
)
from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.chat.request import PROMPT_TOO_LONG
from rsqa_pipeline.preference_data.importers.add_imports import add_imports
from rsqa_pipeline.preference_data.judge import JudgeRequest, TruthGraphJudge
from rsqa_pipeline.preference_data.judge_measures import judge_measures
from rsqa_pipeline.preference_data.model_judge import make_judge
from rsqa_pipeline.preference_data.model_texts import ModelWriters
from rsqa_pipeline.preference_data.rs_specific import rs_specific_answers
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import BASE_VLM
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.scenes.asking import UnknownQuestionError, ask
from rsqa_pipeline.scenes.corpus import CORPUS_ONLY
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.source_pairs.class_questions import ClassTask
from rsqa_pipeline.source_pairs.split import unit_hash
from rsqa_pipeline.tracking.run_logger import RunLogger

ASSET = "instruction_preferences"
VLM_ANSWERS = 2
"""Answers of the base VLM per question (paper: two VLMs, one answer each)."""


@dataclass
class Item:
    """A question about an image, its correct answer if known, and all candidate answers."""

    subject: Subject
    reference: str
    answers: list[Candidate]
    by_models: list[Candidate] = field(default_factory=list)

    @property
    def all_answers(self) -> list[Candidate]:
        return [*self.answers, *self.by_models]


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes pairs, judgements, generations and quarantine (.parquet), and the images of imported pairs.

    Raises:
        DataError: no instruction sample is set aside for preferences.
        BudgetError, ServerError: a model cannot be asked any further; its replies so far are kept for the next run.
    """
    preferences, seed = settings.preference_data, settings.seed
    rows = [row for row in preference_rows(inputs["instruction_samples"]) if len(row["messages"]) > 1]
    if not rows:
        raise DataError(
            f"{inputs['instruction_samples']}: no sample of split 'preference'; see source_pairs.preference_share"
        )
    scenes = scenes_of(rows)
    pairs = Pairs(ASSET, read_forgotten())
    items = _items(balanced_by_task(rows, preferences.instruction_samples, seed), rows, scenes, seed, pairs)
    with ChatModels.of(settings, ASSET) as models:
        writers = ModelWriters(inputs["base_models"], models, settings, pairs)
        _ask_models(items, writers, preferences.answerers)
        metrics = _close_ended([item for item in items if item.subject.task != OPEN], scenes, settings, pairs)
        asked_open = [answer for item in items if item.subject.task == OPEN for answer in item.all_answers]
        judge = make_judge(preferences, models, scenes, asked_open, seed)
        add_judged(asked_open, judge, "open_ended", settings, pairs)
        if preferences.rs_specific is not None:
            asked = rs_specific_answers(rows, preferences.rs_specific, writers)
            add_judged(asked, judge, "rs_specific", settings, pairs)
        measured = judge_measures(judge, pairs, preferences, seed)
        used = models.usage()
    imported = add_imports("instruction", out, settings, pairs)
    metrics = {**pairs.write(out), **metrics, **measured, **used, **imported, "questions": float(len(items))}
    logger.log_params({"judge": judge.name, "answerers": ", ".join(preferences.answerers)})
    logger.log_metrics(metrics)
    return metrics


def balanced_by_task(rows: Sequence[Mapping[str, Any]], limit: int, seed: int) -> list[Mapping[str, Any]]:
    """At most ``limit`` rows, taken from the tasks in turn; within a task in the order of a hash."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: unit_hash(str(seed), ASSET, row["sample_id"])):
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
    """The chosen rows' questions, each once, with all answers but the models'; unknown questions and those too
    long for a model are quarantined."""
    classes = sorted({row["scene_class"] for row in rows if row["scene_class"]})
    items: dict[str, Item] = {}
    for row in chosen:
        *context, last = row["messages"]
        if too_long := overlong_prompt(context):
            pairs.quarantine.add(row["sample_id"], PROMPT_TOO_LONG, too_long)
            continue
        subject = Subject(row["image_id"], row["image"], tuple(context), row["task"])
        original = last["content"] if row["original_text"] is None else row["original_text"]
        fault = row["corruption"] or (NO_FAULT if subject.image_id not in scenes else None)
        unmet = subject.image_id in scenes and row["source"] in CORPUS_ONLY
        stored = [] if unmet else [Candidate(subject, last["content"], row["source"], fault)]
        if subject.key in items:
            items[subject.key].answers += stored
            continue
        try:
            reference, answers = _answers(subject, original, row["scene_class"], scenes, classes, seed)
        except UnknownQuestionError as error:
            pairs.quarantine.add(row["sample_id"], "unknown_question", str(error))
            continue
        items[subject.key] = Item(subject, reference, [*stored, *answers])
    return list(items.values())


def _answers(
    subject: Subject,
    original: str,
    scene_class: str | None,
    scenes: Mapping[str, int],
    classes: list[str],
    seed: int,
) -> tuple[str, list[Candidate]]:
    """The reference, and the answers that compete with the stored one."""
    if subject.image_id in scenes:
        truth = sample_scene(scenes[subject.image_id])
        return ask(truth, question_of(subject)).answer, scene_answers(subject, truth, seed)
    if scene_class is not None and subject.task in get_args(ClassTask):
        return original, class_answers(subject, scene_class, original, classes)
    return original, [Candidate(subject, original, REFERENCE, NO_FAULT)]


def _ask_models(items: Sequence[Item], writers: ModelWriters, names: Sequence[str]) -> None:
    """Adds the models' answers to the items."""
    by_key = {item.subject.key: item for item in items}
    for name in names:
        for answer in writers.write(name, [item.subject for item in items], VLM_ANSWERS):
            by_key[answer.subject.key].by_models.append(answer)


def _close_ended(items: Sequence[Item], scenes: Mapping[str, int], settings: Profile, pairs: Pairs) -> Metrics:
    """Adds pairs (reference, wrong answer); returns how often the VLM was right."""
    references = {item.subject.key: item.reference for item in items}
    others = other_references([item.subject for item in items], references, settings.seed)
    truth = TruthGraphJudge(scenes, 0.0, settings.seed)
    right: Counter[bool] = Counter()
    for item in items:
        subject = item.subject
        by_vlm = [answer for answer in item.by_models if answer.source == BASE_VLM]
        right.update(is_right(subject.task, answer.text, item.reference) for answer in by_vlm)
        always = [*item.by_models, others[subject.key]] if subject.key in others else item.by_models
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
                continue  # worded differently, but correct by the truth: "3 ships" for "3"
            pairs.add({**plain_pair(best, answer, "close_ended", REFERENCE, split), "true_margin": margin})
    asked = right[True] + right[False]
    return {"vlm_right_close_ended": right[True] / asked, "vlm_close_ended_answers": float(asked)} if asked else {}
