"""The RL policy (paper, use 2): GRPO on the reasoning model's prompts, with rewards by rules and by the score model.

Departures from the paper:

1. only the language model is trained; the vision tower and the connector of the fine-tuned VLM are frozen;
2. the batch size counts completions, with ``rollouts`` completions per prompt.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.processing_utils import ProcessorMixin
from trl import GRPOConfig, GRPOTrainer

from rsqa_pipeline.errors import DataError, ProfileError
from rsqa_pipeline.finetuned_models.checkpoints import Checkpoints, keyed_folder
from rsqa_pipeline.finetuned_models.finetune_vlm import save_vlm
from rsqa_pipeline.finetuned_models.resumable import ResumableTrainer
from rsqa_pipeline.finetuned_models.training import (
    History,
    StepMetrics,
    TrainingRun,
    as_data,
    disable_log_printing,
    lazy_dataset,
    trainer_arguments,
    write_history,
)
from rsqa_pipeline.models.families import chat_form_of
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.plots import new_figure, save
from rsqa_pipeline.profile import Profile, RlPolicy
from rsqa_pipeline.records import Metrics, read_table
from rsqa_pipeline.rl_policy.gold import gold_of
from rsqa_pipeline.rl_policy.heldout import compare, measure_heldout
from rsqa_pipeline.rl_policy.policy_reward import reward_function
from rsqa_pipeline.rl_policy.prompts import PolicyPrompt, read_prompts
from rsqa_pipeline.rl_policy.reasoning import reasoning_prompt
from rsqa_pipeline.rl_policy.reasoning_model import train_language_only
from rsqa_pipeline.rl_policy.watch import Watch, WatchCallback, probes_of
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.tracking.run_logger import RunLogger

GRPO_COLUMNS = {
    "loss": "loss",
    "reward": "reward",
    "format": "format",
    "accuracy": "accuracy",
    "kl": "kl",
    "equal_groups": "frac_reward_zero_std",
    "length": "completions/mean_length",
    "learning_rate": "learning_rate",
}
log = logging.getLogger(__name__)


def run(
    inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger, *, policy: str, score_reward: bool
) -> Metrics:
    """Stage ``rl_policy``: model/, history.json, rewards.json, plots/reward_curve.png; watch.json if it is watched.

    Args:
        inputs: ``reasoning_model``, ``instruction_samples``, ``score_model``; ``benchmark_sets`` if it is gold.
        policy: name of the asset.
        score_reward: False trains without the score model: an open-ended answer gets only the format reward. Held-out
            rewards are always the full ones, so that policies are measured alike.

    Raises:
        ProfileError: the batch size is not a multiple of the rollouts per prompt.
        DataError: too few prompts for an optimizer step, or too little held out for a watch.
        ModelError: a model cannot be loaded, or training diverges.
    """
    config, seed = settings.rl_policy, settings.seed
    _check_batch(settings)
    samples = read_table(inputs["instruction_samples"] / "samples.parquet")
    prompts, heldout = (
        read_prompts(inputs["reasoning_model"] / "prompts.parquet", samples, part) for part in ("prompts", "heldout")
    )
    _check_prompts(prompts, config)
    root = settings.state / "rl_policy" / policy
    parts = {
        "rl_policy": config.model_dump(mode="json"),
        "compute": settings.compute.model_dump(mode="json"),
        "seed": seed,
        "score_reward": score_reward,
    }
    scratch = keyed_folder(root, inputs, parts, "rl_policy.train_grpo")
    scorer = Scorer.load(inputs["score_model"] / "model", settings.compute)
    watch = _watch_of(inputs, heldout, scorer, settings, score_reward)
    vlm = load_vlm(inputs["reasoning_model"] / "model", settings.compute)
    before = measure_heldout(vlm, heldout, scorer, config, seed)
    training_run = TrainingRun(seed, settings.compute, scratch, logger)
    history = train_grpo(vlm, prompts, scorer if score_reward else None, config, training_run, watch)
    after = measure_heldout(vlm, heldout, scorer, config, seed)
    rewards = compare(before, after, heldout, seed)
    save_vlm(vlm, out / "model")
    write_history(history, out / "history.json")
    (out / "rewards.json").write_text(json.dumps(rewards, indent=1) + "\n", encoding="utf-8")
    if watch:
        (out / "watch.json").write_text(json.dumps(watch.report(), indent=1) + "\n", encoding="utf-8")
    plot_rewards(history, out / "plots" / "reward_curve.png")
    logger.log_model(policy, out / "model")
    shutil.rmtree(root, ignore_errors=True)
    return {
        "prompts": float(len(prompts)),
        "heldout_prompts": float(len(heldout)),
        "equal_groups": mean(row["equal_groups"] for row in history),
        **{f"reward_{moment}": rewards[moment]["value"] for moment in ("before", "after", "difference")},
        **(watch.metrics() if watch else {}),
    }


def _watch_of(
    inputs: Mapping[str, Path], heldout: Sequence[PolicyPrompt], scorer: Scorer, settings: Profile, score_reward: bool
) -> Watch | None:
    config, watched = settings.rl_policy, settings.rl_policy.watch
    if watched is None:
        return None
    probes = probes_of(heldout, watched.probes)
    gold = gold_of(watched, probes, inputs, settings)
    return Watch(watched, config, probes, scorer, scorer if score_reward else None, gold, settings.seed)


def train_grpo(
    policy: Vlm,
    prompts: Sequence[PolicyPrompt],
    scorer: Scorer | None,
    config: RlPolicy,
    training_run: TrainingRun,
    watch: Watch | None = None,
) -> list[StepMetrics]:
    """GRPO on the policy's language model, in place.

    After a kill, the same call resumes from the last checkpoint in ``training_run.scratch``.

    Args:
        policy: a model loaded from a folder; GRPO loads the same weights from there again as KL reference.
        scorer: None trains on rules alone.
        watch: checks the policy, and can end the training early with the weights of the last checkpoint.

    Returns:
        One row per optimizer step: phase, step, loss, reward, format, accuracy, kl, equal_groups (share of
        groups of equal rewards, which give no gradient), length (tokens), learning_rate; at a step with alarms of the
        watch, ``alarms``: monitor -> value.

    Raises:
        DataError: fewer prompts than one optimizer step takes.
        ModelError: a loss or a gradient is not finite; training stops at that step.
    """
    _check_prompts(prompts, config)
    train_language_only(policy)
    processor = copy.deepcopy(policy.processor)
    # TRL pads prompts on the left, but mm_token_type_ids on the tokenizer's padding side: the two must agree
    processor.tokenizer.padding_side = "left"
    history = History(training_run.logger, "grpo", GRPO_COLUMNS)
    checkpoints = Checkpoints(training_run.scratch)
    trainer = _ResumableGrpo(
        model=policy.model,
        reward_funcs=[reward_function(prompts, scorer, config)],
        args=GRPOConfig(
            **_sampling_arguments(config, processor),
            **trainer_arguments(config.grpo, training_run, checkpoints.writing),
        ),
        train_dataset=_dataset(prompts, processor),
        processing_class=processor,
        callbacks=[history, _PromptOrder()],
    )
    disable_log_printing(trainer)
    if watch:
        start = training_run.scratch / "start"
        callback = WatchCallback(
            watch, policy, training_run.scratch, training_run.logger, lambda: trainer.save_model(str(start))
        )
        trainer.add_callback(callback)
    trainer.train_or_resume(history, checkpoints)
    if watch and watch.stopped_at is not None:
        _keep_checkpoint(trainer, checkpoints.newest() or start, watch)
    for alarm in watch.alarms() if watch else ():
        for row in history.rows:
            if row["step"] == alarm.step:
                row.setdefault("alarms", {})[alarm.monitor] = alarm.value
    return history.rows


def _sampling_arguments(config: RlPolicy, processor: ProcessorMixin) -> dict[str, Any]:
    """Arguments of GRPOConfig: how completions are sampled, and the weight of the KL term."""
    return {
        "num_generations": config.rollouts,
        "temperature": config.sampling.temperature,
        "top_p": config.sampling.top_p,
        "max_completion_length": config.sampling.max_new_tokens,
        "beta": config.kl,
        # a sampled image token would refer to an image that does not exist
        "generation_kwargs": {"suppress_tokens": chat_form_of(processor).suppressed(processor.tokenizer)},
    }


def _dataset(prompts: Sequence[PolicyPrompt], processor: ProcessorMixin) -> Dataset:
    """One row per prompt; images are opened when a batch needs them."""
    return lazy_dataset(
        [
            {
                "image": prompt.image,
                "prompt": [as_data(processor, message) for message in reasoning_prompt(prompt.context)],
                "prompt_index": prompt_index,
                "sample_id": prompt.sample_id,
            }
            for prompt_index, prompt in enumerate(prompts)
        ]
    )


def _keep_checkpoint(trainer: _ResumableGrpo, kept: Path, watch: Watch) -> None:
    """Gives the policy back the weights that it had before the alarm that stopped its training."""
    trainer.restore(kept)
    watch.kept_step = 0 if kept.name == "start" else int(kept.name.split("-")[1])
    reasons = ", ".join(str(a) for a in watch.alarms() if a.step == watch.stopped_at)
    log.warning(
        "watch: training stopped at step %d (%s); the policy is that of step %d, the last checkpoint before the alarm",
        watch.stopped_at, reasons, watch.kept_step,
    )  # fmt: skip


class _ResumableGrpo(ResumableTrainer, GRPOTrainer):
    """TRL's GRPOTrainer on rows with a ``sample_id``."""

    def training_step(self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        return self.check_loss(loss, [row["sample_id"] for row in inputs])

    def restore(self, folder: Path) -> None:
        """Loads the trained weights of a checkpoint, after training."""
        self._load_from_checkpoint(str(folder))


class _PromptOrder(TrainerCallback):
    """Restores the order of the prompts.

    TRL's sampler draws each epoch's order from a generator of its own, which a resumed training would start again.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        for _epoch in range(int(state.epoch or 0)):
            next(iter(train_dataloader.batch_sampler.sampler))


def plot_rewards(history: Sequence[StepMetrics], path: Path) -> None:
    """Plots the mean reward of each step's completions, with its parts."""
    figure, axes = new_figure()
    for part in ("reward", "format", "accuracy"):
        points = [(row["step"], row[part]) for row in history if row[part] is not None]
        axes.plot([step for step, _ in points], [value for _, value in points], label=part)
    axes.set_xlabel("GRPO step")
    axes.set_ylabel("mean of the step's completions")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("Reward during GRPO")
    axes.legend()
    save(figure, path)


def _check_prompts(prompts: Sequence[PolicyPrompt], config: RlPolicy) -> None:
    needed = config.grpo.batch_size * config.grpo.gradient_accumulation // config.rollouts
    if len(prompts) < needed:
        raise DataError(
            f"GRPO has {len(prompts)} prompts, but one optimizer step needs {needed}; "
            "lower rl_policy.grpo.batch_size or raise source_pairs.instruction_samples"
        )


def _check_batch(settings: Profile) -> None:
    config = settings.rl_policy
    completions = config.grpo.batch_size * config.grpo.gradient_accumulation
    if completions % config.rollouts:
        raise ProfileError(
            settings.name,
            [
                f"rl_policy.grpo: batch_size x gradient_accumulation = {completions} completions per step; "
                f"must be a multiple of rl_policy.rollouts = {config.rollouts}"
            ],
        )
