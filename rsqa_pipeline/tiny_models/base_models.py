"""The asset ``base_models``: the VLM and the CLIP that every later stage starts from.

Each is a local folder (copied, so that the output is complete), a hub id (recorded with its revision and weights hash),
or ``scratch``: small models trained here on the profile's own images, with the recipe of the shipped models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rsqa_pipeline.models.load import Clip, Vlm, load_clip, load_vlm, local_folder, weights_version
from rsqa_pipeline.profile import Compute, Profile, TinyModels
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION, class_words, with_article
from rsqa_pipeline.tiny_models.measure import correct_answers, zero_shot_accuracy
from rsqa_pipeline.tiny_models.own_images import OwnImages
from rsqa_pipeline.tiny_models.perception import Heads, Tower, clip_tower, vlm_tower
from rsqa_pipeline.tiny_models.recipe import Schedule, make_clip, make_vlm
from rsqa_pipeline.tiny_models.teacher import Teacher
from rsqa_pipeline.tracking.run_logger import RunLogger

Kind = Literal["vlm", "clip", "scorer"]
_MAX_MEASURED_IMAGES = 200


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Writes ``vlm.json`` and ``clip.json`` and, if the weights are local, the folders ``vlm/`` and ``clip/``.

    A profile whose score model starts from another VLM (``tiny_models.scorer``) also gets ``scorer.json``, ``scorer/``.

    Returns:
        Parameter counts in millions; for models from scratch also their accuracies on the split ``validation``, 0..1.

    Raises:
        ModelError: a folder or hub id does not contain such a model; the teacher's package is not installed.
        DataError: too little data to train from scratch.
    """
    tiny, compute = settings.tiny_models, settings.compute
    material = None
    if "scratch" in (tiny.vlm, tiny.clip) and tiny.scratch is not None:
        teacher = _teacher(settings, logger)
        material = OwnImages(inputs["image_text_pairs"], tiny.scratch.image_size, teacher)
    metrics: Metrics = {}
    sources: dict[Kind, str | None] = {"vlm": tiny.vlm, "clip": tiny.clip, "scorer": tiny.scorer}
    for kind, source in sources.items():
        if source is None:
            continue
        if source == "scratch" and material is not None:
            metrics |= _from_scratch(kind, material, settings, out, logger)
        else:
            _fetch(kind, source, tiny, out)
        metrics |= _loaded_size(kind, out, tiny, compute)
    return metrics


def _teacher(settings: Profile, logger: RunLogger) -> Teacher | None:
    scratch = settings.tiny_models.scratch
    if scratch is None or scratch.teacher is None:
        return None
    teacher = Teacher(scratch.teacher, settings.score_cache("base_models"), settings.compute)
    logger.log_params({"teacher": scratch.teacher, "teacher_version": teacher.version})
    return teacher


def _fetch(kind: Kind, source: str, tiny: TinyModels, out: Path) -> None:
    folder = local_folder(source, tiny.revision, tiny.trust_remote_code)
    if Path(source).is_dir():
        shutil.copytree(folder, out / kind)
        _write_entry(kind, kind, None, folder, out)
    else:
        _write_entry(kind, source, tiny.revision, folder, out)


def _write_entry(kind: Kind, path: str, revision: str | None, weights: Path, out: Path) -> None:
    entry = {"path": path, "version": weights_version(weights)}
    if revision is not None:
        entry["revision"] = revision
    (out / f"{kind}.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")


def _loaded_size(kind: Kind, out: Path, tiny: TinyModels, compute: Compute) -> Metrics:
    """Loads the model as later stages will, so that a broken model fails here."""
    path = json.loads((out / f"{kind}.json").read_text(encoding="utf-8"))["path"]
    source = out / path if (out / path).is_dir() else path
    load = load_clip if kind == "clip" else load_vlm
    model = load(source, compute, tiny.revision, tiny.trust_remote_code).model
    return {f"{kind}_million_parameters": sum(p.numel() for p in model.parameters()) / 1e6}


def _from_scratch(kind: Kind, material: OwnImages, settings: Profile, out: Path, logger: RunLogger) -> Metrics:
    scratch = settings.tiny_models.scratch
    assert scratch is not None
    schedule = Schedule(
        vlm_perception_steps=scratch.perception_steps,
        clip_perception_steps=scratch.perception_steps,
        vlm_steps=scratch.vlm_steps,
        vlm_harder_steps=(),  # own images have no truth graph, so their captions cannot be altered
        clip_steps=scratch.clip_steps,
        batch_size=scratch.batch_size,
        language_batch_size=scratch.language_batch_size,
        seed=settings.seed,
    )
    logger.log_params({f"{kind}_recipe_{name}": value for name, value in vars(schedule).items()})
    rows = material.rows_of("validation")[:_MAX_MEASURED_IMAGES]
    if kind == "vlm":
        vlm = make_vlm(material, schedule, settings.compute, None, logger)
        vlm.save(out / kind)
        metrics = _perception_accuracies(kind, material, vlm_tower(vlm.model), vlm.heads, rows)
    else:
        clip = make_clip(material, schedule, settings.compute, None, logger)
        clip.save(out / kind)
        metrics = _perception_accuracies(kind, material, clip_tower(clip.model), clip.heads, rows)
    _write_entry(kind, kind, None, out / kind, out)
    if len(rows):
        metrics |= _class_accuracy(kind, material, out / kind, settings.compute, rows)
    return metrics


@torch.inference_mode()
def _perception_accuracies(kind: Kind, material: OwnImages, tower: Tower, heads: Heads, rows: np.ndarray) -> Metrics:
    if not len(rows):
        return {}
    right = heads.accuracies(tower(material.images[rows]), material.labels(rows))
    return {f"{kind}_perception_{name}": value for name, value in right.items()}


def _class_accuracy(kind: Kind, material: OwnImages, folder: Path, compute: Compute, rows: np.ndarray) -> Metrics:
    names = [material.scene_classes[row] or "" for row in rows]
    images = material.images[rows]
    if kind == "vlm":
        vlm: Vlm = load_vlm(folder, compute)
        right = correct_answers(vlm, images, [CLASS_QUESTION] * len(rows), [class_words(name) for name in names])
        return {"vlm_class_answer": float(np.mean(right))}
    clip: Clip = load_clip(folder, compute)
    prompts = [f"a satellite photo of {with_article(class_words(name))}." for name in material.classes]
    return {
        "clip_zero_shot_class": zero_shot_accuracy(clip, images, prompts, [material.classes.index(n) for n in names])
    }
