"""Killed trainings of the reasoning model and of a policy resume and end like uninterrupted ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from rsqa_pipeline.finetuned_models import checkpoints
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun
from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import read_table
from rsqa_pipeline.rl_policy import reasoning_model, train_grpo
from rsqa_pipeline.rl_policy.prompts import read_prompts
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.rl_policy.conftest import SUBSET_NAME
from tests.training_kills import KILLS, run_with_kills

STEPS = 5
"""Two and a half epochs of 4 prompts, which make two steps of two micro batches."""


class Stopped(Exception):
    """Stands for a kill where a real process would only be slower."""


class StoppingLogger(SilentLogger):
    """Stops a training while it logs a step, before that step's checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step == self._step:
            raise Stopped


def with_steps(settings: Profile, steps: int) -> Profile:
    grpo = settings.rl_policy.grpo.model_copy(
        update={"batch_size": 4, "gradient_accumulation": 2, "epochs": 1, "steps": steps}
    )
    return settings.model_copy(update={"rl_policy": settings.rl_policy.model_copy(update={"grpo": grpo})})


def test_grpo_resumed_after_any_step_ends_like_an_uninterrupted_one(
    policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, their order over epochs, and rewards are the same: the random state is restored."""
    monkeypatch.setattr(checkpoints, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_SHARE", 1e9)
    config = with_steps(settings, STEPS).rl_policy
    samples = read_table(policy_inputs["instruction_samples"] / "samples.parquet")
    prompts = read_prompts(policy_inputs["reasoning_model"] / "prompts.parquet", samples, "prompts")

    def trained(folder: Path, stop: int) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
        policy = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
        run = TrainingRun(5, settings.compute, folder, StoppingLogger(stop))
        return train_grpo.train_grpo(policy, prompts, None, config, run), policy.model.state_dict()

    history, weights = trained(tmp_path / "whole", 0)
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    for stop in range(2, STEPS + 1):
        with pytest.raises(Stopped):
            trained(tmp_path / str(stop), stop)
        resumed, resumed_weights = trained(tmp_path / str(stop), 0)
        assert resumed == history
        assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())


def test_grpo_killed_at_random_moments_ends_like_an_uninterrupted_one(
    policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    options = {"policy": "rl_policy", "score_reward": True}
    report = run_with_kills(train_grpo.run, policy_inputs, with_steps(settings, 10), options, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == 10
    assert report.same_steps and report.same_curve and report.same_weights and not report.left


def test_the_reasoning_model_killed_at_random_moments_ends_like_an_uninterrupted_one(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    options = {"start_from": f"vlm_{SUBSET_NAME}", "subset": SUBSET_NAME}
    report = run_with_kills(reasoning_model.run, inputs, settings, options, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == 24
    assert report.same_steps and report.same_curve and report.same_weights and not report.left
