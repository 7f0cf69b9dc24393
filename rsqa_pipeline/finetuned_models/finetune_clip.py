"""Contrastive fine-tuning of the CLIP or SigLIP on a subset's captions (paper, use 1: curation, CLIP).

A CLIP learns by its cross-entropy over the batch, a SigLIP by its sigmoid loss; which of the two a model is, its
configuration says. With ``compute.launch`` several processes divide each batch, contrast all of it and end with the
weights of one process.

Departure from the paper: two samples in a batch that share their image or their text are not negatives of each other.

Images are not flipped or rotated, because captions mention left and right. With a frozen vision tower, its output for
each image is computed once and takes the place of the pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsqa_pipeline.finetuned_models.captioned_images import CaptionedImages
from rsqa_pipeline.finetuned_models.clip_trainer import PHASE, ClipTrainer
from rsqa_pipeline.finetuned_models.seeds import own_process, train_in_process, train_seeds, training_run_of
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import (
    StepMetrics,
    TrainingRun,
    mean_final_loss,
    trained_in_float32,
    write_seed_histories,
)
from rsqa_pipeline.models.load import Clip, base_model, load_clip
from rsqa_pipeline.profile import ClipStep, Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.score_model.training.distributed import ProcessGroup, close_group, init_group
from rsqa_pipeline.score_model.training.launch import Job, run_worker
from rsqa_pipeline.tracking.run_logger import RunLogger


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, subset: str) -> Metrics:
    """Stage ``finetuned_models``, asset ``clip_<subset>``: one model per seed, history.json, plots/training.png.

    Args:
        inputs: ``subset_<subset>``, ``image_text_pairs``, ``base_models``.

    Raises:
        DataError: the subset has no captions, or does not match these pairs.
        ModelError: the base model cannot be loaded, or training diverges.
    """
    rows = subset_samples(inputs, subset, "image_text_pairs", "caption")
    step, launch = settings.finetuned_models.clip, settings.compute.launch or own_process(settings)

    def train(training_run: TrainingRun, folder: Path) -> list[StepMetrics]:
        if not launch:
            return train_and_save(inputs, rows, step, training_run, folder)
        details = {"subset": subset, "step": step.model_dump(mode="json", exclude_unset=True)}
        return train_in_process(__name__, training_run, folder, inputs, settings, launch, details)

    histories = train_seeds(f"clip_{subset}", inputs, out, settings, logger, train)
    write_seed_histories(histories, out)
    logger.log_model(f"clip_{subset}", out / "model")
    return {"caption_samples": float(len(rows)), "final_loss": mean_final_loss(histories, PHASE)}


def train_job(job: Job, logger: RunLogger) -> list[StepMetrics]:
    """Trains one seed, in one of several processes."""
    inputs = {name: Path(path) for name, path in job["inputs"].items()}
    rows = subset_samples(inputs, job["subset"], "image_text_pairs", "caption")
    return train_and_save(inputs, rows, ClipStep(**job["step"]), training_run_of(job, logger), Path(job["folder"]))


def train_and_save(
    inputs: Mapping[str, Path],
    rows: Sequence[Mapping[str, Any]],
    step: ClipStep,
    training_run: TrainingRun,
    folder: Path,
) -> list[StepMetrics]:
    """Trains the base model and, in rank 0, writes it into ``folder``; returns its history."""
    group = init_group(training_run.compute)
    clip = load_clip(base_model(inputs["base_models"], "clip"), training_run.compute)
    history = train_clip(clip, rows, step, training_run, group)
    if group.is_rank_zero:
        for part in (clip.model, clip.tokenizer, clip.image_processor):
            part.save_pretrained(folder)
    close_group()
    return history


def train_clip(
    clip: Clip, rows: Sequence[Mapping[str, Any]], step: ClipStep, training_run: TrainingRun, group: ProcessGroup
) -> list[StepMetrics]:
    """Trains the CLIP or SigLIP in place on captions (IMAGE_TEXT_SAMPLE rows).

    After a kill, the same call resumes from the last checkpoint in ``training_run.scratch``.

    Returns:
        One row per optimizer step: phase, step, loss (nats), accuracy (share of the batch's images whose own text ranks
        first among the texts they are contrasted with), learning_rate.

    Raises:
        ModelError: a loss or a gradient is not finite; training stops at that step.
    """
    clip.model.vision_model.requires_grad_(not step.frozen_vision)
    with trained_in_float32(clip.model):
        data = CaptionedImages(rows, clip, training_run.scratch, step.frozen_vision, group)
        history = ClipTrainer(clip.model, data, step, training_run, group).train()
    clip.model.requires_grad_(True).eval()
    return history


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]), train_job)
