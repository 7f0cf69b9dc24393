"""Inputs of the policy on disk: a VLM and a score model with random weights, and instruction samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsqa_pipeline.models.conversation import CAPTION_PROMPT
from rsqa_pipeline.models.load import QwenVLProcessor
from rsqa_pipeline.profile import Compute, Profile, ReasoningStep, RlPolicy
from rsqa_pipeline.profile.preference_data import PreferenceData
from rsqa_pipeline.profile.types import Optimizer, Sampling
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, SUBSET, Message, sample_id, write_table
from rsqa_pipeline.rl_policy import reasoning_model
from rsqa_pipeline.rl_policy.reasoning import reasoned_answer, reasoning_prompt
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.architecture import new_vlm, train_vlm_processor
from rsqa_pipeline.tracking.run_logger import SilentLogger

QUESTIONS = {
    "count": ("How many ships are there?", "3"),
    "open": (
        "What is seen here, and where in the image, and which colour has it, and how many are there of it?",
        "three white ships",
    ),
    "grounding": ("Where is the ship?", "[4, 4, 20, 12]"),
}
CAPTION = "three white ships, in a harbour."
IMAGES = 24
HELDOUT_SHARE = 0.5
SUBSET_NAME = "score_model_p30s60"


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are kept in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("policy")
    names = (f"vlm_{SUBSET_NAME}", f"subset_{SUBSET_NAME}", "image_text_pairs", "instruction_samples", "score_model")
    folders = {name: root / name for name in names}
    rng = np.random.default_rng(0)
    captions, rows, texts = [], [], []
    for index in range(IMAGES):
        file = root / f"{index}.png"
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
        split = "corpus" if index % 2 else "preference"
        image = {"image_id": str(index), "image": str(file), "source": "test", "split": split}
        caption = [Message(role="assistant", content=CAPTION)]
        if split == "corpus":
            captions.append(
                {"sample_id": sample_id(str(index), caption), "messages": caption, "task": "caption", **image}
            )
        for task, (question, answer) in QUESTIONS.items():
            messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
            rows.append({"sample_id": sample_id(str(index), messages), "messages": messages, "task": task, **image})
            texts += [reasoning_prompt(messages[:1])[0]["content"], reasoned_answer(task, answer)]
    write_table(folders["instruction_samples"] / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
    write_table(folders["image_text_pairs"] / "samples.parquet", IMAGE_TEXT_SAMPLE, captions)
    subset = folders[f"subset_{SUBSET_NAME}"]
    kept = [{"sample_id": row["sample_id"], "kind": "caption"} for row in captions]
    write_table(subset / "ids.parquet", SUBSET, kept)
    (subset / "rule.json").write_text(json.dumps({"selector": "score_model"}))
    texts += [CAPTION_PROMPT, CAPTION]
    processor = train_vlm_processor(texts, image_size=64)
    _write_models(folders, processor)
    return folders


def _write_models(folders: dict[str, Path], processor: QwenVLProcessor) -> None:
    model = folders[f"vlm_{SUBSET_NAME}"] / "model"
    new_vlm(processor, seed=0).save_pretrained(model)
    score_model = ScoreModel.from_base(str(model))
    torch.nn.init.normal_(score_model.head.weight, generator=torch.Generator().manual_seed(1))
    score_model.save_pretrained(folders["score_model"] / "model")
    for folder in (model, folders["score_model"] / "model"):
        processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def policy_inputs(
    inputs: dict[str, Path], settings: Profile, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The policies' inputs, with a reasoning model that holds the format, so that its answers earn rewards."""
    folder = tmp_path_factory.mktemp("reasoning_model")
    longer = settings.rl_policy.model_copy(
        update={"reasoning": settings.rl_policy.reasoning.model_copy(update={"epochs": 40})}
    )
    trained = settings.model_copy(update={"rl_policy": longer})
    start = f"vlm_{SUBSET_NAME}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("state"))
        reasoning_model.run(inputs, folder, trained, SilentLogger(), start_from=start, subset=SUBSET_NAME)
    return {**inputs, "reasoning_model": folder}


@pytest.fixture(scope="session")
def settings() -> Profile:
    """Profile with only the policy's section: 2 GRPO steps of 2 prompts with 4 rollouts each."""
    return Profile.model_construct(
        name="test",
        seed=5,
        compute=Compute(device="cpu"),
        preference_data=PreferenceData.model_construct(heldout_share=HELDOUT_SHARE),
        rl_policy=RlPolicy(
            reasoning_samples=16,
            reasoning=ReasoningStep(learning_rate=3e-3, batch_size=8, epochs=12),
            prompts=4,
            heldout_prompts=4,
            rollouts=4,
            sampling=Sampling(temperature=0.9, top_p=0.99, max_new_tokens=56),
            grpo=Optimizer(learning_rate=1e-3, batch_size=8, epochs=1),
            kl=0.01,
        ),
    )
