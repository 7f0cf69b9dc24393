"""The captions of a subset with their images, in batches, as contrastive training reads them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from rsqa_pipeline.finetuned_models.contrastive import PairBatch
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import Clip
from rsqa_pipeline.models.two_towers import model_tokens, tokenize
from rsqa_pipeline.profile import ClipStep
from rsqa_pipeline.score_model.training.distributed import ProcessGroup

IMAGE_BATCH_SIZE = 256


class CaptionedImages:
    """Captions with their images, each image decoded and preprocessed once.

    What is kept of an image, its pixels or the frozen vision tower's output, is stored in a memory-mapped float16 file
    in ``scratch``, so only those of a batch are in memory. A training that resumes finds it there.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], clip: Clip, scratch: Path, frozen_vision: bool, group: ProcessGroup
    ) -> None:
        """
        Args:
            rows: IMAGE_TEXT_SAMPLE, one caption each.
        """
        self.sample_ids: list[str] = [row["sample_id"] for row in rows]
        self._texts = [row["messages"][-1]["content"] for row in rows]
        references = {row["image_id"]: row["image"] for row in rows}
        self._image_of_row = _numbered([row["image_id"] for row in rows])
        self._text_of_row = _numbered(self._texts)
        self._clip = clip
        self._group = group
        self._dtype = clip.model.dtype
        file = scratch / "images.npy"
        if group.is_rank_zero and not file.is_file():
            _preprocess(list(references.values()), clip, file, frozen_vision)
        group.broadcast(None)  # rank 0 has written it
        self._seen: np.ndarray = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._texts)

    def steps(self, step: ClipStep, seed: int) -> Iterator[list[list[int]]]:
        """The rows of each optimizer step, without end: ``gradient_accumulation`` batches, fewer at an epoch's end.

        Each epoch has an order of its own, which depends on the seed alone.
        """
        batches: DataLoader[Any] = DataLoader(
            range(len(self)),  # type: ignore[arg-type]
            batch_size=step.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=list,
        )
        while True:
            epoch = iter(batches)
            while of_step := list(itertools.islice(epoch, step.gradient_accumulation)):
                yield of_step

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """This process's part of a batch: consecutive rows, as many in each process.

        The last processes repeat the first row where the rows cannot be divided; what is gathered of it is cut off.
        """
        size = math.ceil(len(rows) / self._group.world_size)
        padded = [*rows, *([rows[0]] * (size * self._group.world_size - len(rows)))]
        own = padded[self._group.rank * size :][:size]
        seen = torch.from_numpy(self._seen[self._image_of_row[own].numpy()].astype(np.float32))
        tokens = model_tokens(self._clip.model, tokenize(self._clip, [self._texts[row] for row in own]))
        images, texts = self._image_of_row[list(rows)], self._text_of_row[list(rows)]
        same = (images[:, None] == images) | (texts[:, None] == texts)
        device = self._group.device
        return PairBatch(
            seen.to(device, self._dtype), {name: ids.to(device) for name, ids in tokens.items()}, same.to(device)
        )


def _numbered(values: Sequence[Hashable]) -> Tensor:
    """The number of each value among the distinct ones, in their order: equal numbers for equal values."""
    number_of = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([number_of[value] for value in values])


@torch.no_grad()
def _preprocess(references: Sequence[str], clip: Clip, file: Path, frozen_vision: bool) -> None:
    def see(part: Sequence[str]) -> np.ndarray:
        images = [open_image(reference) for reference in part]
        pixels: Tensor = clip.image_processor(images=images, return_tensors="pt")["pixel_values"]
        if frozen_vision:
            pixels = clip.model.vision_model(pixel_values=pixels.to(clip.model.device, clip.model.dtype)).pooler_output
        return pixels.float().cpu().numpy()

    first = see(references[:1])
    unfinished = file.with_suffix(".part")
    shape = (len(references), *first.shape[1:])
    kept = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
    starts = range(0, len(references), IMAGE_BATCH_SIZE)
    for start in tqdm(starts, desc="images", unit="batch", disable=len(starts) < 8):
        kept[start : start + IMAGE_BATCH_SIZE] = see(references[start : start + IMAGE_BATCH_SIZE])
    kept.flush()
    unfinished.rename(file)
