"""A real GRPO run of TRL whose rewards come from a server in another process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

from rsqa_pipeline.finetuned_models.training import disable_log_printing, lazy_dataset
from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.rl_policy.reasoning_model import train_language_only
from rsqa_pipeline.score_model.scoring.scorer import Scorer
from rsqa_pipeline.serving.client import RewardClient, Rewards, trl_reward
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from tests.serving.conftest import QUESTION

IMAGE_TOKENS = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"]
STEPS, COMPLETIONS = 2, 4


def test_grpo_learns_from_the_servers_rewards(client: RewardClient, scorer: Scorer, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for number in range(4):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(files[-1])
    seen: list[tuple[Any, Any, Any, Rewards]] = []
    trainer = grpo_trainer(files, recorded(trl_reward(client), seen), tmp_path)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()

    assert len(seen) == STEPS
    for prompts, completions, images, rewards in seen:
        assert len(rewards) == COMPLETIONS and len(set(rewards)) > 1
        for prompt, completion, image, reward in zip(prompts, completions, images, rewards, strict=True):
            assert QUESTION in str(prompt)
            context = [{"role": "user", "content": QUESTION}]
            ((expected,),) = scorer.score([ScoringGroup(image[0], context, [completion[0]["content"]])])
            assert reward == pytest.approx(expected, abs=1e-5)
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert logged == pytest.approx(
        [float(np.mean([r for r in rewards if r is not None])) for *_, rewards in seen], abs=1e-4
    )
    assert any(not before[name].equal(value) for name, value in trainer.model.named_parameters() if name in before)


def recorded(function: Callable[..., Rewards], seen: list[tuple[Any, Any, Any, Rewards]]) -> Callable[..., Rewards]:
    def reward(**asked: Any) -> Rewards:
        rewards = function(**asked)
        seen.append((asked["prompts"], asked["completions"], asked["images"], rewards))
        return rewards

    return reward


def grpo_trainer(files: list[str], reward: Callable[..., Rewards], scratch: Path) -> GRPOTrainer:
    policy = load_vlm(CHECKPOINTS / "vlm", Compute(device="cpu"))
    train_language_only(policy)
    processor = copy.deepcopy(policy.processor)
    processor.tokenizer.padding_side = "left"
    prompt = [{"role": "user", "content": QUESTION}]
    trainer = GRPOTrainer(
        model=policy.model,
        reward_funcs=[reward],
        args=GRPOConfig(
            output_dir=str(scratch),
            max_steps=STEPS,
            per_device_train_batch_size=COMPLETIONS,
            num_generations=COMPLETIONS,
            max_completion_length=12,
            temperature=6.0,  # the shipped model is sure of its answers, and equal ones give no gradient
            learning_rate=1e-3,
            use_cpu=True,
            gradient_checkpointing=False,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKENS)},
        ),
        train_dataset=lazy_dataset([{"image": file, "prompt": prompt} for file in files]),
        processing_class=processor,
    )
    disable_log_printing(trainer)
    return trainer
