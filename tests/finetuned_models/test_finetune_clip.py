"""CLIP fine-tuning: a deterministic run that learns and saves its model, in float32 and bfloat16, frozen or not."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsqa_pipeline.finetuned_models import finetune_clip
from rsqa_pipeline.finetuned_models.captioned_images import CaptionedImages
from rsqa_pipeline.finetuned_models.contrastive import ContrastiveStep
from rsqa_pipeline.finetuned_models.finetune_clip import train_clip
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.load import Clip, base_model, load_clip, weights_version
from rsqa_pipeline.profile import ClipStep, Profile
from rsqa_pipeline.score_model.training.distributed import ProcessGroup
from rsqa_pipeline.tracking.run_logger import SilentLogger

ALONE = ProcessGroup(torch.device("cpu"))


def test_each_image_is_preprocessed_once_by_the_image_processor(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    clip = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    row = subset_samples(corpus, "all", "image_text_pairs", "caption")[0]
    other = {**row, "messages": [{"role": "assistant", "content": "second caption"}]}
    data = CaptionedImages([row, other], clip, tmp_path, frozen_vision=False, group=ALONE)
    batch = data.batch([1, 0])
    texts = clip.tokenizer.batch_decode(batch.tokens["input_ids"], skip_special_tokens=True)
    assert texts == ["second caption", "a red field seen from above"]
    assert batch.same.all() and len(np.load(tmp_path / "images.npy")) == 1
    expected = clip.image_processor(images=[open_image(row["image"])], return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(batch.images, expected.expand(2, -1, -1, -1), atol=2e-3)


def test_batches_have_the_order_of_a_shuffling_loader_and_steps_end_with_their_epoch(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    clip = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    data = CaptionedImages(rows, clip, tmp_path, frozen_vision=False, group=ALONE)
    step = settings.finetuned_models.clip.model_copy(update={"batch_size": 5, "gradient_accumulation": 2})
    steps = list(itertools.islice(data.steps(step, 7), 4))
    assert [[len(batch) for batch in batches] for batches in steps] == [[5, 5], [2], [5, 5], [2]]
    loader: torch.utils.data.DataLoader[torch.Tensor] = torch.utils.data.DataLoader(
        range(len(rows)),  # type: ignore[arg-type]
        batch_size=5,
        shuffle=True,
        generator=torch.Generator().manual_seed(7),
    )
    expected = [batch.tolist() for _ in range(2) for batch in loader]
    assert [batch for batches in steps for batch in batches] == expected


def test_a_frozen_tower_gives_the_same_similarities_and_keeps_its_weights(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    clip = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    contrast = ContrastiveStep(clip.model, ALONE)
    found = []
    for frozen in (False, True):
        scratch = tmp_path / str(frozen)
        scratch.mkdir()
        data = CaptionedImages(rows, clip, scratch, frozen, ALONE)
        found.append(contrast.backward(data.batch(range(len(data))), 1, [0])[0])
    assert torch.allclose(found[0], found[1], atol=1e-3)

    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    step = settings.finetuned_models.clip.model_copy(update={"frozen_vision": True})
    history = train_clip(clip, rows, step, TrainingRun(3, settings.compute, tmp_path, SilentLogger()), ALONE)
    assert history[-1]["loss"] != history[0]["loss"]
    moved = {name for name, value in clip.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith("vision_model.")]
    assert {"visual_projection.weight", "text_projection.weight"} <= moved
    assert any(name.startswith("text_model.") for name in moved)


@pytest.mark.parametrize("frozen_vision", [False, True])
def test_a_bfloat16_model_keeps_steps_that_are_smaller_than_its_precision(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path, frozen_vision: bool
) -> None:
    rows = subset_samples(corpus, "all", "image_text_pairs", "caption")
    step = ClipStep(learning_rate=2e-5, batch_size=6, steps=40, warmup_steps=0, frozen_vision=frozen_vision)
    learned = []
    for dtype in ("bfloat16", "float32"):
        compute = settings.compute.model_copy(update={"dtype": dtype})
        clip = load_clip(base_model(corpus["base_models"], "clip"), compute)
        history = train_clip(clip, rows, step, TrainingRun(3, compute, tmp_path, SilentLogger()), ALONE)
        assert {parameter.dtype for parameter in clip.model.parameters()} == {getattr(torch, dtype)}
        learned.append(history[0]["loss"] - history[-1]["loss"])
    assert learned[1] > 0.05
    assert learned[0] == pytest.approx(learned[1], rel=0.1)


def test_run_learns_saves_and_is_deterministic(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    out, again = folder("first"), folder("second")
    metrics = finetune_clip.run(corpus, out, settings, SilentLogger(), subset="all")
    assert finetune_clip.run(corpus, again, settings, SilentLogger(), subset="all") == metrics
    assert weights_version(out / "model") == weights_version(again / "model")
    history = json.loads((out / "history.json").read_text())
    assert [row["step"] for row in history] == list(range(1, 9))
    # a batch's loss depends on how many of its samples share a text, so compare whole epochs (2 steps)
    losses = [row["loss"] for row in history]
    assert sum(losses[-2:]) < sum(losses[:2])
    assert metrics["caption_samples"] == 12
    base = load_clip(base_model(corpus["base_models"], "clip"), settings.compute)
    tuned = load_clip(out / "model", settings.compute)
    assert tuned.version != base.version
    assert tuned.tokenizer("a red field")["input_ids"] == base.tokenizer("a red field")["input_ids"]
    assert (out / "plots" / "training.png").stat().st_size > 1000


def test_a_killed_run_trains_only_the_unfinished_seeds(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = settings.finetuned_models.model_copy(update={"seeds": [3, 4, 5]})
    settings = settings.model_copy(update={"finetuned_models": section})
    whole = folder("whole")
    metrics = finetune_clip.run(corpus, whole, settings, SilentLogger(), subset="all")

    trained: list[int] = []
    train = finetune_clip.train_clip

    def killed(
        clip: Clip, rows: Any, step: ClipStep, training_run: TrainingRun, group: ProcessGroup
    ) -> list[StepMetrics]:
        trained.append(training_run.seed)
        if trained == [3, 4]:
            raise KeyboardInterrupt
        return train(clip, rows, step, training_run, group)

    monkeypatch.setattr(finetune_clip, "train_clip", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune_clip.run(corpus, folder("killed"), settings, SilentLogger(), subset="all")
    resumed = folder("resumed")
    assert finetune_clip.run(corpus, resumed, settings, SilentLogger(), subset="all") == metrics
    assert trained == [3, 4, 4, 5]
    for name in ("model", "model_seed_4", "model_seed_5"):
        assert weights_version(resumed / name) == weights_version(whole / name)
    assert (resumed / "history.json").read_bytes() == (whole / "history.json").read_bytes()
    assert not list((settings.state / "finetuned_models").iterdir())

    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        finetune_clip.run(corpus, folder("again"), settings, SilentLogger(), subset="all")
    (kept,) = (settings.state / "finetuned_models/clip_all").glob("*/seed_3/model")
    shutil.rmtree(kept)  # as after a kill while finished models are moved to the output
    finetune_clip.run(corpus, folder("moved"), settings, SilentLogger(), subset="all")
    assert trained == [3, 4, 3, 4, 5]

    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        finetune_clip.run(corpus, folder("once more"), settings, SilentLogger(), subset="all")
    longer = section.model_copy(update={"clip": section.clip.model_copy(update={"epochs": 5})})
    settings = settings.model_copy(update={"finetuned_models": longer})
    finetune_clip.run(corpus, folder("other"), settings, SilentLogger(), subset="all")
    assert trained == [3, 4, 3, 4, 5]
