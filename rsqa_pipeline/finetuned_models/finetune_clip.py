"""Contrastive fine-tuning of the CLIP on a subset's captions (paper, use 1: curation, CLIP).

Departures from the paper:

1. two samples in a batch that share their image or their text are not negatives of each other;
2. with several processes, each one contrasts within its own batch; embeddings are not gathered across processes.

Images are not flipped or rotated, because captions mention left and right. With a frozen vision tower, its output for
each image is computed once and takes the place of the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import get_cosine_schedule_with_warmup

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.finetuned_models.seeds import train_seeds
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import (
    StepMetrics,
    TrainingRun,
    check_converged,
    mean_final_loss,
    trained_in_float32,
    write_seed_histories,
)
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import Clip, base_model, device_of, load_clip
from rsqa_pipeline.profile import ClipStep, Profile
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger

PHASE = "captions"
MAX_LOGIT_SCALE = math.log(100)
"""CLIP's limit on the learned temperature."""
IMAGE_BATCH_SIZE = 256


def run(inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, subset: str) -> Metrics:
    """Stage ``finetuned_models``, asset ``clip_<subset>``: one model per seed, history.json, plots/training.png.

    Args:
        inputs: ``subset_<subset>``, ``image_text_pairs``, ``base_models``.

    Raises:
        DataError: the subset has no captions, or does not match these pairs.
        ModelError: the base model cannot be loaded, or training diverges.
    """
    rows = subset_samples(inputs, subset, "image_text_pairs", "caption")

    def train(training_run: TrainingRun, folder: Path) -> list[StepMetrics]:
        clip = load_clip(base_model(inputs["base_models"], "clip"), settings.compute)
        history = train_clip(clip, rows, settings.finetuned_models.clip, training_run)
        for part in (clip.model, clip.tokenizer, clip.image_processor):
            part.save_pretrained(folder)
        return history

    histories = train_seeds(f"clip_{subset}", inputs, out, settings, logger, train)
    write_seed_histories(histories, out)
    logger.log_model(f"clip_{subset}", out / "model")
    return {"caption_samples": float(len(rows)), "final_loss": mean_final_loss(histories, PHASE)}


def train_clip(
    clip: Clip, rows: Sequence[Mapping[str, Any]], optimizer: ClipStep, training_run: TrainingRun
) -> list[StepMetrics]:
    """Trains the CLIP in place on captions (IMAGE_TEXT_SAMPLE rows).

    Returns:
        One row per optimizer step: phase, step, loss (nats), accuracy (share of the batch's images whose own text ranks
        first among the texts they are contrasted with), learning_rate.

    Raises:
        ModelError: the vision tower is to be frozen and the model has no projections, or training diverges.
    """
    if optimizer.frozen_vision and not hasattr(clip.model, "visual_projection"):
        raise ModelError(
            f"frozen_vision trains CLIP's projections, and {type(clip.model).__name__} has none; "
            "set finetuned_models.clip.frozen_vision to false"
        )
    clip.model.vision_model.requires_grad_(not optimizer.frozen_vision)
    with trained_in_float32(clip.model):
        history = _optimize(clip, rows, optimizer, training_run)
    check_converged(history, PHASE)
    clip.model.requires_grad_(True).eval()
    return history


def _optimize(
    clip: Clip, rows: Sequence[Mapping[str, Any]], optimizer: ClipStep, training_run: TrainingRun
) -> list[StepMetrics]:
    """Trains the parameters that require gradients; see `train_clip`."""
    accelerator = Accelerator(
        cpu=device_of(training_run.compute).type == "cpu",
        gradient_accumulation_steps=optimizer.gradient_accumulation,
    )
    batches = DataLoader(
        CaptionedImages(rows, clip, training_run.scratch, through_tower=optimizer.frozen_vision),
        batch_size=optimizer.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(training_run.seed),
        collate_fn=_Collator(clip),
    )
    bfloat16 = training_run.compute.dtype == "bfloat16"
    similarities = Similarities(clip.model)
    adamw = torch.optim.AdamW(
        _parameter_groups(similarities, optimizer.weight_decay), lr=optimizer.learning_rate, betas=(0.9, 0.98)
    )
    total = optimizer.total_steps(len(batches))
    # accelerate would step a prepared schedule once per process; this one is stepped below, once per optimizer step
    schedule = get_cosine_schedule_with_warmup(adamw, optimizer.warmup_steps, total)
    model, adamw, batches = accelerator.prepare(similarities, adamw, batches)
    model.train()
    history: list[StepMetrics] = []
    progress = tqdm(total=total, desc="clip", unit="step")
    for batch in _cycle(batches):
        with accelerator.accumulate(model):
            rate = schedule.get_last_lr()[0]
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bfloat16):
                similarity = model(batch)
            loss, accuracy = contrastive_loss(similarity, batch["same"])
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()
        if not accelerator.sync_gradients:
            continue
        schedule.step()
        clip.model.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)
        numbers = {"loss": loss.item(), "accuracy": accuracy.item(), "learning_rate": rate}
        history.append({"phase": PHASE, "step": len(history) + 1, **numbers})
        training_run.logger.log_metrics({f"{PHASE}_{k}": v for k, v in numbers.items()}, step=len(history))
        progress.update()
        if len(history) == total:
            break
    progress.close()
    return history


class Similarities(torch.nn.Module):
    """(b, b) cosines of a batch's images and texts, scaled by the learned temperature."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Scaled cosines, float32, images in rows.

        Args:
            batch: ``input_ids``, ``attention_mask``, and ``images``: pixels (b, 3, h, w), or the vision tower's output
                for them (b, hidden).
        """
        images, tokens = batch["images"], {name: batch[name] for name in ("input_ids", "attention_mask")}
        if images.ndim == 4:
            embedded = self.clip(pixel_values=images, **tokens)
            seen, said = embedded.image_embeds, embedded.text_embeds
        else:
            seen = F.normalize(self.clip.visual_projection(images), dim=-1)
            said = F.normalize(self.clip.text_projection(self.clip.text_model(**tokens).pooler_output), dim=-1)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round cosines, scaled, to halves
            similarity: Tensor = self.clip.logit_scale.float().exp() * seen.float() @ said.float().T
        return similarity


def contrastive_loss(similarity: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's symmetric cross-entropy, with samples that share their image or text excluded from the negatives.

    Args:
        similarity: (b, b) scaled cosines, images in rows, texts in columns, own text on the diagonal.
        same: (b, b) bool, True where row and column share their image or their text; the diagonal is ignored.

    Returns:
        (loss, accuracy): scalars; nats, and the share of images whose own text ranks first.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    others = same & ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    logits = similarity.masked_fill(others, float("-inf"))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(dim=1) == own).float().mean()


@dataclass(frozen=True)
class CaptionedImage:
    seen: Tensor
    """float32: pixels (3, height, width), normalized by the image processor, or the vision tower's output (hidden)."""
    image_id: str
    text: str


class CaptionedImages(Dataset[CaptionedImage]):
    """Captions with their images, each image decoded and preprocessed once.

    What is kept of an image is stored in a memory-mapped float16 file in ``scratch``, so only those of a batch are in
    memory.

    Args:
        through_tower: keep the vision tower's output in place of the pixels.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], clip: Clip, scratch: Path, through_tower: bool) -> None:
        self._captions = [(row["image_id"], row["messages"][-1]["content"]) for row in rows]
        references = {row["image_id"]: row["image"] for row in rows}
        self._row_of_image = {image_id: row for row, image_id in enumerate(references)}
        self._seen = _preprocess(list(references.values()), clip, scratch / "images.npy", through_tower)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: int) -> CaptionedImage:
        image_id, text = self._captions[index]
        seen = torch.from_numpy(self._seen[self._row_of_image[image_id]].astype(np.float32))
        return CaptionedImage(seen, image_id, text)


class _Collator:
    def __init__(self, clip: Clip) -> None:
        self._tokenizer = clip.tokenizer
        self._context = int(clip.model.config.text_config.max_position_embeddings)
        self._dtype = clip.model.dtype

    def __call__(self, samples: list[CaptionedImage]) -> dict[str, Tensor]:
        tokens = self._tokenizer(
            [sample.text for sample in samples],
            padding=True,
            truncation=True,
            max_length=self._context,
            return_tensors="pt",
        )
        same = [[a.image_id == b.image_id or a.text == b.text for b in samples] for a in samples]
        return {
            "images": torch.stack([sample.seen for sample in samples]).to(self._dtype),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "same": torch.tensor(same),
        }


@torch.no_grad()
def _preprocess(
    references: Sequence[str], clip: Clip, file: Path, through_tower: bool
) -> np.memmap[Any, np.dtype[np.float16]]:
    def see(part: Sequence[str]) -> np.ndarray:
        images = [open_image(reference) for reference in part]
        pixels: Tensor = clip.image_processor(images=images, return_tensors="pt")["pixel_values"]
        if through_tower:
            pixels = clip.model.vision_model(pixel_values=pixels.to(clip.model.device, clip.model.dtype)).pooler_output
        return pixels.float().cpu().numpy()

    first = see(references[:1])
    kept = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(len(references), *first.shape[1:]))
    starts = range(0, len(references), IMAGE_BATCH_SIZE)
    for start in tqdm(starts, desc="images", unit="batch", disable=len(starts) < 8):
        kept[start : start + IMAGE_BATCH_SIZE] = see(references[start : start + IMAGE_BATCH_SIZE])
    return kept


def _cycle(batches: DataLoader[Any]) -> Iterator[Mapping[str, Tensor]]:
    while True:
        yield from batches


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only, not for gains, biases and the temperature."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
