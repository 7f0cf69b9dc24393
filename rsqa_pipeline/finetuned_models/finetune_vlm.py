"""Fine-tunes the VLM on a subset in the paper's two steps (paper, use 1): P on captions, then S on instructions.

The profile names the trained parts of each step. By default, as in the paper, P trains the vision-language connector,
and S trains LoRA on the language model, and the connector.

Departure from the paper: S can mix a share of the subset's captions into the instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from rsqa_pipeline.finetuned_models.checkpoints import Checkpoints
from rsqa_pipeline.finetuned_models.resumable import ResumableTrainer
from rsqa_pipeline.finetuned_models.seeds import own_process, train_in_process, train_seeds, training_run_of
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import (
    History,
    SftExample,
    StepMetrics,
    TrainingRun,
    disable_log_printing,
    mean_final_loss,
    supervised_dataset,
    trainer_arguments,
    write_seed_histories,
)
from rsqa_pipeline.models.conversation import as_chat
from rsqa_pipeline.models.families import family_of
from rsqa_pipeline.models.image_inputs import limit_images
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.profile import CaptionStep, InstructionStep, Profile, TrainedPart, VlmStep
from rsqa_pipeline.profile.types import Optimizer
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.score_model.training.launch import Job, run_worker
from rsqa_pipeline.tracking.run_logger import RunLogger

SFT_COLUMNS = {"loss": "loss", "accuracy": "mean_token_accuracy", "learning_rate": "learning_rate"}


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, subset: str) -> Metrics:
    """Stage ``finetuned_models``, asset ``vlm_<subset>``: one model per seed (LoRA merged), history.json,
    plots/training.png.

    Args:
        inputs: ``subset_<subset>``, ``image_text_pairs``, ``instruction_samples``, ``base_models``.

    Raises:
        DataError: the subset has no captions or no instructions, or does not match these tables.
        ModelError: the base model cannot be loaded, or training diverges.
    """
    config = settings.finetuned_models
    steps = (config.vlm_captions, config.vlm_instructions)
    captions, instructions = _examples(inputs, subset)
    launch = own_process(settings)

    def train(training_run: TrainingRun, folder: Path) -> list[StepMetrics]:
        if not launch:
            return train_and_save(inputs, captions, instructions, steps, config.max_length, training_run, folder)
        details = {
            "subset": subset,
            "steps": [step.model_dump(mode="json", exclude_unset=True) for step in steps],
            "max_length": config.max_length,
        }
        return train_in_process(__name__, training_run, folder, inputs, settings, launch, details)

    histories = train_seeds(f"vlm_{subset}", inputs, out, settings, logger, train)
    write_seed_histories(histories, out)
    logger.log_model(f"vlm_{subset}", out / "model")
    return {
        "caption_samples": float(len(captions)),
        "instruction_samples": float(len(instructions)),
        "captions_final_loss": mean_final_loss(histories, "captions"),
        "instructions_final_loss": mean_final_loss(histories, "instructions"),
    }


def train_job(job: Job, logger: RunLogger) -> list[StepMetrics]:
    """Trains one seed in a process of its own."""
    inputs = {name: Path(path) for name, path in job["inputs"].items()}
    steps = (CaptionStep(**job["steps"][0]), InstructionStep(**job["steps"][1]))
    training_run, folder = training_run_of(job, logger), Path(job["folder"])
    return train_and_save(inputs, *_examples(inputs, job["subset"]), steps, job["max_length"], training_run, folder)


def train_and_save(
    inputs: Mapping[str, Path],
    captions: Sequence[SftExample],
    instructions: Sequence[SftExample],
    steps: tuple[CaptionStep, InstructionStep],
    max_length: int | None,
    training_run: TrainingRun,
    folder: Path,
) -> list[StepMetrics]:
    """Trains the base model in both steps and writes it into ``folder``; returns its history."""
    vlm = load_vlm(base_model(inputs["base_models"], "vlm"), training_run.compute)
    history = train_step(vlm, captions, steps[0], max_length, training_run, "captions")
    replayed = [*instructions, *replay(captions, steps[1].caption_replay, training_run.seed)]
    history += train_step(vlm, replayed, steps[1], max_length, training_run, "instructions")
    save_vlm(vlm, folder)
    return history


def _examples(inputs: Mapping[str, Path], subset: str) -> tuple[list[SftExample], list[SftExample]]:
    """The subset's captions and its instructions."""
    return (
        as_sft_examples(subset_samples(inputs, subset, "image_text_pairs", "caption")),
        as_sft_examples(subset_samples(inputs, subset, "instruction_samples", "instruction")),
    )


def as_sft_examples(rows: Sequence[Mapping[str, Any]]) -> list[SftExample]:
    """Converts samples (IMAGE_TEXT_SAMPLE): one example per assistant turn, which answers all turns before it. A
    caption answers the caption prompt."""
    chats = [(row, as_chat(row["messages"])) for row in rows]
    return [
        SftExample(row["image"], chat[:turn], message["content"], row["sample_id"])
        for row, chat in chats
        for turn, message in enumerate(chat)
        if message["role"] == "assistant"
    ]


def replay(captions: Sequence[SftExample], share: float, seed: int) -> list[SftExample]:
    """A random share (0..1) of the captions, in their order."""
    rows = np.random.default_rng((seed, len(captions))).permutation(len(captions))[: round(share * len(captions))]
    return [captions[row] for row in sorted(rows)]


def train_step(
    vlm: Vlm,
    examples: Sequence[SftExample],
    step: VlmStep,
    max_length: int | None,
    training_run: TrainingRun,
    phase: str,
) -> list[StepMetrics]:
    """Trains the step's parts in place; LoRA is merged at the end. Returns the phase's history."""
    vlm.model.requires_grad_(False)
    model = _with_lora(vlm, step, training_run.seed) if "lora" in step.train else vlm.model
    for module in _trained_modules(vlm, step.train):
        module.requires_grad_(True)
    history = train_supervised(model, vlm.processor, examples, step, max_length, training_run, phase)
    if isinstance(model, PeftModel):
        model.merge_and_unload()
    return history


def _with_lora(vlm: Vlm, step: VlmStep, seed: int) -> PeftModel:
    assert step.lora_rank is not None and step.lora_alpha is not None  # checked by the profile
    layers = family_of(vlm.model).lora_targets
    lora = LoraConfig(r=step.lora_rank, lora_alpha=step.lora_alpha, target_modules=layers, lora_dropout=0.0)
    # peft initializes adapters randomly, drawing only from torch's global generator
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PeftModel(vlm.model, lora)


def _trained_modules(vlm: Vlm, parts: Sequence[TrainedPart]) -> list[torch.nn.Module]:
    family = family_of(vlm.model)
    words = [vlm.model.get_input_embeddings(), vlm.model.get_output_embeddings()]
    modules: dict[TrainedPart, list[torch.nn.Module]] = {
        "connector": family.connector_of(vlm.model),
        "embeddings": words,
        "language": [vlm.model.model.get_submodule(family.language), *words],
        "lora": [],
    }
    return [module for part in parts for module in modules[part]]


def train_supervised(
    model: Any,
    processor: Any,
    examples: Sequence[SftExample],
    optimizer: Optimizer,
    max_length: int | None,
    training_run: TrainingRun,
    phase: str,
) -> list[StepMetrics]:
    """Trains the parameters of ``model`` that require gradients, in place, to produce each example's answer.

    After a kill, the same call resumes from the last checkpoint in ``training_run.scratch``.

    Args:
        max_length: maximum tokens per row, image and prompt included; a longer answer is cut at the end. A larger image
            than `max_image_tokens` is made smaller, now and by the saved ``processor``, see `limit_images`. None for no
            limit.

    Returns:
        One row per optimizer step: phase, step, loss (nats per token), accuracy (share of answer tokens predicted
        correctly), learning_rate.

    Raises:
        ModelError: a loss or a gradient is not finite; training stops at that step. Or ``max_length`` is too short for
            an image.
    """
    if max_length is not None:
        limit_images(processor, max_length)  # TRL would cut through the image's tokens, and the model refuses the row
    history = History(training_run.logger, phase, SFT_COLUMNS)
    checkpoints = Checkpoints(training_run.scratch / phase)
    trainer = _ResumableSft(
        model=model,
        args=SFTConfig(max_length=max_length, **trainer_arguments(optimizer, training_run, checkpoints.writing)),
        train_dataset=supervised_dataset(processor, examples),
        processing_class=processor,
        callbacks=[history],
    )
    disable_log_printing(trainer)
    trainer.train_or_resume(history, checkpoints)
    return history.rows


class _ResumableSft(ResumableTrainer, SFTTrainer):
    """TRL's SFTTrainer on rows with a ``sample_id``."""

    data_collator: Any

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        collate = self.data_collator
        self.data_collator = lambda rows: {**collate(rows), "sample_id": [row["sample_id"] for row in rows]}

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        sample_ids = inputs.pop("sample_id")
        return self.check_loss(super().training_step(model, inputs, num_items_in_batch), sample_ids)


def save_vlm(vlm: Vlm, folder: Path) -> None:
    """Writes config, safetensors and processor files, as `load_vlm` reads them."""
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]), train_job)
