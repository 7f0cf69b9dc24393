"""Fine-tunes the VLM on a subset in the paper's two steps (paper, use 1).

P: captions, only the vision-language connector is trained.
S: instructions, LoRA on the language model, and the connector.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from rsqa_pipeline.finetuned_models.subset_samples import subset_name, subset_samples
from rsqa_pipeline.finetuned_models.training import (
    Exercise,
    History,
    HistoryRow,
    Job,
    check_converged,
    final_loss,
    only_progress_bar,
    plot_losses,
    supervised_dataset,
    trainer_arguments,
    write_history,
)
from rsqa_pipeline.models.conversation import as_chat
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.profile import LoraOptimizer, Profile
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger

LANGUAGE_LAYERS = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
SFT_COLUMNS = {"loss": "loss", "accuracy": "mean_token_accuracy", "learning_rate": "learning_rate"}


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger) -> Metrics:
    """Stage ``finetuned_models``, asset ``vlm_<subset>``: model/ (LoRA merged), history.json, plots/training.png.

    Args:
        inputs: one ``subset_*``, ``image_text_pairs``, ``instruction_samples``, ``base_models``.

    Raises:
        DataError: the subset keeps no captions or no instructions, or does not belong to these tables.
        ModelError: the base model cannot be loaded.
    """
    recipe = settings.finetuned_models
    captions = as_exercises(subset_samples(inputs, "image_text_pairs", "caption"))
    instructions = as_exercises(subset_samples(inputs, "instruction_samples", "instruction"))
    vlm = load_vlm(base_model(inputs["base_models"], "vlm"), settings.compute)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(settings.seed, settings.compute, Path(scratch), logger)
        history = train_on_captions(vlm, captions, recipe.vlm_captions, recipe.max_length, job)
        history += train_on_instructions(vlm, instructions, recipe.vlm_instructions, recipe.max_length, job)
    save_vlm(vlm, out / "model")
    write_history(history, out / "history.json")
    plot_losses(history, out / "plots" / "training.png")
    logger.log_model(f"vlm_{subset_name(inputs)}", out / "model")
    return {
        "caption_samples": float(len(captions)),
        "instruction_samples": float(len(instructions)),
        "captions_final_loss": final_loss(history, "captions"),
        "instructions_final_loss": final_loss(history, "instructions"),
    }


def as_exercises(rows: Sequence[Mapping[str, Any]]) -> list[Exercise]:
    """Samples (IMAGE_TEXT_SAMPLE) as exercises: the last turn is the answer, a caption answers the caption prompt."""
    chats = [(row["image"], as_chat(row["messages"])) for row in rows]
    return [Exercise(image, chat[:-1], chat[-1]["content"]) for image, chat in chats]


def train_on_captions(
    vlm: Vlm, exercises: Sequence[Exercise], optimizer: Optimizer, max_length: int | None, job: Job
) -> list[HistoryRow]:
    """Step P, in place: only the connector ``visual.merger`` changes. Returns the phase's history."""
    vlm.model.requires_grad_(False)
    vlm.model.model.visual.merger.requires_grad_(True)
    return train_supervised(vlm.model, vlm.processor, exercises, optimizer, max_length, job, "captions")


def train_on_instructions(
    vlm: Vlm, exercises: Sequence[Exercise], optimizer: LoraOptimizer, max_length: int | None, job: Job
) -> list[HistoryRow]:
    """Step S, in place: LoRA on the language model's linear layers, merged at the end, and the connector itself.

    Returns the phase's history.
    """
    lora = LoraConfig(
        r=optimizer.lora_rank, lora_alpha=optimizer.lora_alpha, target_modules=LANGUAGE_LAYERS, lora_dropout=0.0
    )
    # adapters start from random numbers; peft draws them from torch's global generator only
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        adapted = PeftModel(vlm.model, lora)
    vlm.model.model.visual.merger.requires_grad_(True)
    history = train_supervised(adapted, vlm.processor, exercises, optimizer, max_length, job, "instructions")
    adapted.merge_and_unload()
    return history


def train_supervised(
    model: Any,
    processor: Any,
    exercises: Sequence[Exercise],
    optimizer: Optimizer,
    max_length: int | None,
    job: Job,
    phase: str,
) -> list[HistoryRow]:
    """Trains whatever of ``model`` requires gradients, in place, to give each exercise's answer.

    Args:
        max_length: tokens a row at most, image and prompt among them; a longer answer loses its end. None: no limit.

    Returns:
        One row an optimizer step: phase, step, loss (nats a token), accuracy (share of answer tokens), learning_rate.

    Raises:
        ModelError: the loss was no number at some step.
    """
    history = History(job.logger, phase, SFT_COLUMNS)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(max_length=max_length, **trainer_arguments(optimizer, job)),
        train_dataset=supervised_dataset(exercises),
        processing_class=processor,
        callbacks=[history],
    )
    only_progress_bar(trainer)
    trainer.train()
    model.eval()
    check_converged(history.rows, phase)
    return history.rows


def save_vlm(vlm: Vlm, folder: Path) -> None:
    """Writes config, safetensors and processor files, as `load_vlm` reads them."""
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
