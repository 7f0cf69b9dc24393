"""A SigLIP is fine-tuned like a CLIP, and its model is loaded, embedded and benchmarked like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rsqa_pipeline.benchmarks.clip_benchmark import evaluate
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.finetuned_models import finetune_clip
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.models.clip_embeddings import embed_images, embed_texts
from rsqa_pipeline.models.load import base_model, load_clip
from rsqa_pipeline.profile import ClipStep, Profile
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.runs import losses


@pytest.mark.parametrize("frozen", [False, True])
def test_a_siglip_learns_and_its_model_is_benchmarked(
    siglip_corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path], frozen: bool
) -> None:
    step = ClipStep(learning_rate=3e-3, batch_size=12, steps=12, warmup_steps=1, chunk_size=5, frozen_vision=frozen)
    section = settings.finetuned_models.model_copy(update={"clip": step})
    settings = settings.model_copy(update={"finetuned_models": section})
    out = folder("out")
    metrics = finetune_clip.run(siglip_corpus, out, settings, SilentLogger(), subset="all")
    curve = [loss for _, loss in losses(out)]
    assert metrics["caption_samples"] == 12 and len(curve) == 12 and curve[-1] < 0.5 * curve[0]
    base = load_clip(base_model(siglip_corpus["base_models"], "clip"), settings.compute)
    tuned = load_clip(out / "model", settings.compute)
    assert type(tuned.model).__name__ == "SiglipModel"
    before = base.model.state_dict()
    moved = {name for name, value in tuned.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"logit_scale", "logit_bias"} <= moved and any(name.startswith("text_model.") for name in moved)
    assert any(name.startswith("vision_model.") for name in moved) is not frozen

    rows = subset_samples(siglip_corpus, "all", "image_text_pairs", "caption")
    images, texts = [row["image"] for row in rows], [row["messages"][-1]["content"] for row in rows]
    seen, said = embed_images(tuned, images, 5), embed_texts(tuned, texts, 5)
    pixels = tuned.image_processor(images=[open_image(name) for name in images], return_tensors="pt")["pixel_values"]
    ids = tuned.tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = tuned.model(pixel_values=pixels, input_ids=ids)
    assert seen == pytest.approx(expected.image_embeds.numpy(), abs=1e-5)
    assert said == pytest.approx(expected.text_embeds.numpy(), abs=1e-5)

    tasks = [(task, [item_of[task.name](row) for row in rows]) for task in load_tasks("clip") if task.name in item_of]
    outcomes = evaluate(tuned, "all", tasks, 5)
    assert {outcome.task for outcome in outcomes} == set(item_of)
    right = [outcome.correct for outcome in outcomes if outcome.metric == tasks[0][0].metrics[0].name]
    assert np.isfinite(right).all() and {outcome.correct for outcome in outcomes} <= {0.0, 0.5, 1.0}


item_of = {
    "classification": lambda row: {**_item(row), "answer": row["messages"][-1]["content"].split()[1]},
    "retrieval": lambda row: {**_item(row), "captions": [row["messages"][-1]["content"]]},
}
"""Task -> its item (BENCHMARK_ITEM) of a caption."""


def _item(row: dict[str, str]) -> dict[str, str]:
    return {"item_id": row["sample_id"], "image_id": row["sample_id"], "image": row["image"]}
