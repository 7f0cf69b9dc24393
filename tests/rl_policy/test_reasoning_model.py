"""The model that every policy starts from, and the prompts that it selects for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rsqa_pipeline.finetuned_models.training import SftExample, StepMetrics
from rsqa_pipeline.models.load import load_vlm, weights_version
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.rl_policy import reasoning_model
from rsqa_pipeline.rl_policy.prompts import PARTS, read_prompts, select_prompts
from rsqa_pipeline.rl_policy.reasoning import INSTRUCTION
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.rl_policy.conftest import CAPTION, HELDOUT_SHARE

SUBSET = "score_model_p30s60"
START = f"vlm_{SUBSET}"


def test_trains_only_the_language_model_and_keeps_the_selected_prompts(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    metrics = reasoning_model.run(inputs, tmp_path, settings, SilentLogger(), start_from=START, subset=SUBSET)
    assert metrics == {"reasoning_samples": 16, "prompts": 4, "heldout_prompts": 4, "unusable_samples": 0}
    history = json.loads((tmp_path / "history.json").read_text())
    assert {row["phase"] for row in history} == {"reasoning"}
    assert history[-1]["loss"] < history[0]["loss"]
    before = load_vlm(inputs[START] / "model", settings.compute).model.state_dict()
    after = load_vlm(tmp_path / "model", settings.compute).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".visual." not in name}

    samples = read_table(inputs["instruction_samples"] / "samples.parquet")
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    selected = select_prompts(samples, scorer, settings.rl_policy, HELDOUT_SHARE, settings.seed)
    for part in PARTS:
        assert read_prompts(tmp_path / "prompts.parquet", samples, part) == getattr(selected, part)


def test_without_reasoning_samples_it_is_the_fine_tuned_model(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    zero = settings.model_copy(update={"rl_policy": settings.rl_policy.model_copy(update={"reasoning_samples": 0})})
    metrics = reasoning_model.run(inputs, tmp_path, zero, SilentLogger(), start_from=START, subset=SUBSET)
    assert metrics["reasoning_samples"] == 0
    assert json.loads((tmp_path / "history.json").read_text()) == []
    assert weights_version(tmp_path / "model") == weights_version(inputs[START] / "model")


def test_captions_of_the_subset_are_replayed_in_the_format_of_reasoning(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SftExample] = []
    train = reasoning_model.train_supervised

    def recorded(model: Any, processor: Any, examples: Sequence[SftExample], *rest: Any) -> list[StepMetrics]:
        seen.extend(examples)
        return train(model, processor, examples, *rest)

    monkeypatch.setattr(reasoning_model, "train_supervised", recorded)
    step = settings.rl_policy.reasoning.model_copy(update={"caption_replay": 1.0, "epochs": 1})
    replaying = settings.model_copy(update={"rl_policy": settings.rl_policy.model_copy(update={"reasoning": step})})
    reasoning_model.run(inputs, tmp_path, replaying, SilentLogger(), start_from=START, subset=SUBSET)
    captions = [example for example in seen if example.answer.endswith(f"<answer>{CAPTION}</answer>")]
    kept = read_table(inputs["image_text_pairs"] / "samples.parquet")
    assert {example.image for example in captions} == {row["image"] for row in kept}
    assert all(INSTRUCTION in example.prompt[-1]["content"] for example in captions)
