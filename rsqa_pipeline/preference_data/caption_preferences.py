"""Caption preferences: several captions per image, judged on five dimensions, the best against the others (ICPD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import read_forgotten
from rsqa_pipeline.preference_data.build_pairs import Pairs, add_judged
from rsqa_pipeline.preference_data.candidate import Candidate, Subject, pair_split, preference_rows, scenes_of
from rsqa_pipeline.preference_data.captioners import (
    check_captioners,
    drawn_captioners,
    human_captions,
    one_fault_captions,
    scene_captions,
)
from rsqa_pipeline.preference_data.chat.model import ChatModels
from rsqa_pipeline.preference_data.importers.add_imports import add_imports
from rsqa_pipeline.preference_data.judge_measures import judge_measures
from rsqa_pipeline.preference_data.model_judge import make_judge
from rsqa_pipeline.preference_data.model_texts import ModelWriters
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.profile.preference_data import BASE_VLM
from rsqa_pipeline.records import Metrics, sha256
from rsqa_pipeline.tracking.run_logger import RunLogger

ASSET = "caption_preferences"


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes pairs, judgements, generations and quarantine (.parquet), and the images of imported pairs.

    Raises:
        DataError: no caption is set aside for preferences, or a captioner does not fit this data.
        BudgetError, ServerError: a model cannot be asked any further; its replies so far are kept for the next run.
    """
    preferences = settings.preference_data
    rows = [row for row in preference_rows(inputs["image_text_pairs"]) if row["task"] == "caption"]
    if not rows:
        raise DataError(
            f"{inputs['image_text_pairs']}: no caption of split 'preference'; see source_pairs.preference_share"
        )
    scenes = scenes_of(rows)
    subjects = choose_subjects(rows, preferences.caption_images, settings.seed)
    pairs = Pairs(ASSET, read_forgotten())
    with ChatModels.of(settings, ASSET) as models:
        candidates = _captions(inputs["base_models"], rows, subjects, scenes, settings, models, pairs)
        judge = make_judge(preferences, models, scenes, candidates, settings.seed)
        add_judged(candidates, judge, "caption", settings, pairs)
        for kind, count in (preferences.one_fault_pairs or {}).items():
            add_judged(_with_one_fault(subjects, scenes, kind, count, settings), judge, "caption", settings, pairs)
        measured = judge_measures(judge, pairs, preferences, settings.seed)
        used = models.usage()
    imported = add_imports("caption", out, settings, pairs)
    metrics = {**pairs.write(out), **measured, **used, **imported, "images": float(len(subjects))}
    logger.log_params({"judge": judge.name, "captioners": ", ".join(preferences.captioners)})
    logger.log_metrics(metrics)
    return metrics


def choose_subjects(rows: Sequence[Mapping[str, Any]], images: int, seed: int) -> list[Subject]:
    """At most ``images`` distinct images of the rows, drawn by hash."""
    references = {row["image_id"]: row["image"] for row in rows}
    drawn = sorted(references, key=lambda image_id: sha256(str(seed), ASSET, image_id))[:images]
    return [Subject(image_id, references[image_id]) for image_id in drawn]


def _with_one_fault(
    subjects: Sequence[Subject], scenes: Mapping[str, int], kind: str, count: int, settings: Profile
) -> list[Candidate]:
    """Candidates of one-fault pairs, on training images only: the reward bench measures them on images of its own."""
    share = settings.preference_data.heldout_share
    trained = [s for s in subjects if pair_split(s.image_id, share, settings.seed) == "train"]
    return list(one_fault_captions(trained, scenes, kind, count, settings.seed))


def _captions(
    base_models: Path,
    rows: Sequence[Mapping[str, Any]],
    subjects: Sequence[Subject],
    scenes: Mapping[str, int],
    settings: Profile,
    models: ChatModels,
    pairs: Pairs,
) -> list[Candidate]:
    """Captions by all captioners, each for the images that it is drawn for."""
    preferences, seed = settings.preference_data, settings.seed
    on_scenes = all(subject.image_id in scenes for subject in subjects)
    check_captioners(preferences.captioners, preferences.models, on_scenes)
    candidates = list(
        scene_captions(subjects, scenes, preferences.captioners, seed)
        if on_scenes
        else human_captions(rows, subjects, preferences.captioners, seed)
    )
    drawn = {subject.key: drawn_captioners(preferences.captioners, subject.image_id, seed) for subject in subjects}
    writers = ModelWriters(base_models, models, settings, pairs)
    for name in preferences.captioners:
        shown = [subject for subject in subjects if name in drawn[subject.key]]
        if name in (BASE_VLM, *preferences.models) and shown:
            candidates += writers.write(name, shown, samples=1)
    return candidates
