"""Caption preferences: several captions an image, judged on five dimensions, the best against the others (ICPD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images import ImageFault
from rsqa_pipeline.models.load import base_model, load_vlm
from rsqa_pipeline.preference_data.build_pairs import Pairs, judge_all
from rsqa_pipeline.preference_data.candidate import Candidate, Subject, pair_split, preference_rows, scenes_of
from rsqa_pipeline.preference_data.captioners import (
    VLM,
    check_captioners,
    drawn_captioners,
    human_captions,
    scene_captions,
)
from rsqa_pipeline.preference_data.judge import make_judge
from rsqa_pipeline.preference_data.vlm_texts import sample_texts
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Metrics, sha256
from rsqa_pipeline.tracking.run_logger import RunLogger

STAGE = "caption_preferences"


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes pairs.parquet, judgements.parquet and quarantine.parquet.

    Raises:
        DataError: no caption is set aside for preferences, or a captioner that this data cannot have.
    """
    preferences = settings.preference_data
    rows = [row for row in preference_rows(inputs["image_text_pairs"]) if row["task"] == "caption"]
    if not rows:
        raise DataError(
            f"{inputs['image_text_pairs']}: no caption of split 'preference'; see source_pairs.preference_share"
        )
    scenes = scenes_of(rows)
    subjects = choose_subjects(rows, preferences.caption_images, settings.seed)
    pairs = Pairs(STAGE)
    on_scenes = all(subject.image_id in scenes for subject in subjects)
    check_captioners(preferences.captioners, on_scenes)
    writers = (
        scene_captions(subjects, scenes, preferences.captioners, settings.seed)
        if on_scenes
        else human_captions(rows, subjects, preferences.captioners, settings.seed)
    )
    candidates = list(writers)
    seen_by_vlm = [s for s in subjects if VLM in drawn_captioners(preferences.captioners, s.image_id, settings.seed)]
    if seen_by_vlm:
        candidates += _vlm_captions(inputs["base_models"], seen_by_vlm, settings, pairs)
    judge = make_judge(preferences, scenes, candidates, settings.seed)
    for judged in judge_all(candidates, judge):
        split = pair_split(judged[0].candidate.subject.image_id, preferences.heldout_share, settings.seed)
        pairs.add_ranked(judged, "caption", judge.name, split)
    metrics = {**pairs.write(out), "images": float(len(subjects))}
    logger.log_params({"judge": judge.name, "captioners": ", ".join(preferences.captioners)})
    logger.log_metrics(metrics)
    return metrics


def choose_subjects(rows: Sequence[Mapping[str, Any]], images: int, seed: int) -> list[Subject]:
    """At most ``images`` of the rows' images, drawn by hash, each once."""
    references = {row["image_id"]: row["image"] for row in rows}
    drawn = sorted(references, key=lambda image_id: sha256(str(seed), STAGE, image_id))[:images]
    return [Subject(image_id, references[image_id]) for image_id in drawn]


def _vlm_captions(base_models: Path, subjects: Sequence[Subject], settings: Profile, pairs: Pairs) -> list[Candidate]:
    """A caption of each image by the base VLM; an image that cannot be opened is quarantined."""
    vlm = load_vlm(base_model(base_models, "vlm"), settings.compute)
    candidates = []
    for subject, texts in sample_texts(vlm, subjects, settings.preference_data.sampling, settings.seed, samples=1):
        if isinstance(texts, ImageFault):
            pairs.refuse(subject.key, texts.reason, texts.detail)
        else:
            candidates.append(Candidate(subject, texts[0], VLM))
    return candidates
