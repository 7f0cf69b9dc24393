"""Killed trainings of the reasoning model and of a policy resume and end like uninterrupted ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.finetuned_models.finetune_vlm import save_vlm
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun
from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import SUBSET, read_table, write_table
from rsqa_pipeline.rl_policy import reasoning_model, train_grpo
from rsqa_pipeline.rl_policy.prompts import PROMPT_TABLE, PolicyPrompt, read_prompts
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.rl_policy.conftest import SUBSET_NAME
from tests.training_kills import KILLS, Stopped, StoppingLogger, run_with_kills, save_each_step

STEPS = 4
"""Two epochs of 4 prompts, each of two steps of two micro batches."""


def with_steps(settings: Profile, steps: int) -> Profile:
    grpo = settings.rl_policy.grpo.model_copy(
        update={"batch_size": 4, "gradient_accumulation": 2, "epochs": 1, "steps": steps}
    )
    # answers that differ, so that groups have a gradient
    sampling = settings.rl_policy.sampling.model_copy(update={"temperature": 1.5, "top_p": 1.0})
    config = settings.rl_policy.model_copy(update={"grpo": grpo, "sampling": sampling})
    return settings.model_copy(update={"rl_policy": config})


def prompts_of(inputs: dict[str, Path]) -> list[PolicyPrompt]:
    samples = read_table(inputs["instruction_samples"] / "samples.parquet")
    return read_prompts(inputs["reasoning_model"] / "prompts.parquet", samples, "prompts")


def test_grpo_stopped_at_every_step_ends_like_an_uninterrupted_one(
    policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, their order over epochs, and rewards are the same: the random state is restored."""
    save_each_step(monkeypatch)
    config = with_steps(settings, STEPS).rl_policy
    prompts = prompts_of(policy_inputs)

    def trained(folder: Path, stop: int) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
        policy = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
        run = TrainingRun(5, settings.compute, folder, StoppingLogger(stop))
        return train_grpo.train_grpo(policy, prompts, None, config, run), policy.model.state_dict()

    history, weights = trained(tmp_path / "whole", 0)
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    assert any(row["equal_groups"] < 1 for row in history)
    for stop in range(2, STEPS + 1):
        with pytest.raises(Stopped):
            trained(tmp_path / "stopped", stop)
    resumed, resumed_weights = trained(tmp_path / "stopped", 0)
    assert resumed == history
    assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())


def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_prompts(
    policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    """The reference model of the KL term makes it so."""
    policy = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
    ruined = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
    with torch.no_grad():
        ruined.model.model.language_model.norm.weight.fill_(float("nan"))
    save_vlm(ruined, tmp_path / "ruined")
    policy.model.config._name_or_path = str(tmp_path / "ruined")
    prompts = prompts_of(policy_inputs)
    run = TrainingRun(5, settings.compute, tmp_path / "run", SilentLogger())
    with pytest.raises(ModelError, match="grpo: the loss is not a finite number at step 1, samples") as caught:
        train_grpo.train_grpo(policy, prompts, None, with_steps(settings, 2).rl_policy, run)
    named = re.findall(r"[0-9a-f]{16,}", str(caught.value))
    assert len(named) == len(set(named)) == 2  # prompts of one step
    assert set(named) < {prompt.sample_id for prompt in prompts}


def test_empty_inputs_are_refused_before_work(
    inputs: dict[str, Path], policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    """Before a model is loaded or a sample is scored: there is no model here."""
    nowhere = tmp_path / "nowhere"
    shutil.copytree(inputs[f"subset_{SUBSET_NAME}"], tmp_path / "empty")
    write_table(tmp_path / "empty" / "ids.parquet", SUBSET, [])
    without = {**inputs, f"subset_{SUBSET_NAME}": tmp_path / "empty", "score_model": nowhere}
    with pytest.raises(DataError, match=f"subset {SUBSET_NAME} keeps no caption"):
        reasoning_model.run(
            without, tmp_path, settings, SilentLogger(), start_from=f"vlm_{SUBSET_NAME}", subset=SUBSET_NAME
        )
    shutil.copytree(policy_inputs["reasoning_model"], tmp_path / "reasoning")
    write_table(tmp_path / "reasoning" / "prompts.parquet", PROMPT_TABLE, [])
    without = {**policy_inputs, "reasoning_model": tmp_path / "reasoning", "score_model": nowhere}
    with pytest.raises(DataError, match="GRPO has 0 prompts, but one optimizer step needs 2"):
        train_grpo.run(without, tmp_path, settings, SilentLogger(), policy="rl_policy", score_reward=True)
    assert not settings.state.exists()


def test_grpo_killed_at_random_moments_ends_like_an_uninterrupted_one(
    policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    steps = 4 + KILLS
    options = {"policy": "rl_policy", "score_reward": True}
    report = run_with_kills(train_grpo.run, policy_inputs, with_steps(settings, steps), options, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == steps
    assert report.same_steps and report.same_curve and report.same_weights and not report.left


def test_the_reasoning_model_killed_at_random_moments_ends_like_an_uninterrupted_one(
    inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    options = {"start_from": f"vlm_{SUBSET_NAME}", "subset": SUBSET_NAME}
    report = run_with_kills(reasoning_model.run, inputs, settings, options, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == 24
    assert report.same_steps and report.same_curve and report.same_weights and not report.left
