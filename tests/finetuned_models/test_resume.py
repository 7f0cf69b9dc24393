"""A killed VLM training resumes from its last checkpoint and ends like an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from rsqa_pipeline.finetuned_models import checkpoints, finetune_vlm, training
from rsqa_pipeline.finetuned_models.finetune_vlm import as_sft_examples, train_step
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import SftExample, StepMetrics, TrainingRun
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.profile import Profile, VlmStep
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.training_kills import KILLS, run_with_kills

STEPS = 7
"""Three and a half epochs of 12 examples: two optimizer steps of two batches and of one."""
LORA = VlmStep(
    learning_rate=1e-2,
    batch_size=5,
    gradient_accumulation=2,
    steps=STEPS,
    weight_decay=0.1,
    warmup_steps=2,
    train=["lora", "connector"],
    lora_rank=2,
    lora_alpha=4,
)


class Stopped(Exception):
    """Stands for a kill where a real process would only be slower."""


class StoppingLogger(SilentLogger):
    """Stops a training while it logs a step, before that step's checkpoint."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.steps: list[int | None] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps.append(step)
        if step == self._step:
            raise Stopped


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "MAX_SHARE", 1e9)


@pytest.fixture
def examples(corpus: dict[str, Path]) -> list[SftExample]:
    return as_sft_examples(subset_samples(corpus, "all", "instruction_samples", "instruction"))


def trained(
    corpus: dict[str, Path],
    examples: Sequence[SftExample],
    settings: Profile,
    folder: Path,
    logger: SilentLogger,
    step: VlmStep = LORA,
) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
    """History and weights of one step of the fine-tuning."""
    vlm: Vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    history = train_step(vlm, examples, step, None, TrainingRun(3, settings.compute, folder, logger), "instructions")
    return history, vlm.model.state_dict()


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("instructions/step-*"))


@pytest.mark.parametrize(("dtype", "stops"), [("float32", range(2, STEPS + 1)), ("bfloat16", [4])])
def test_a_training_resumed_after_any_step_ends_like_an_uninterrupted_one(
    corpus: dict[str, Path],
    examples: list[SftExample],
    settings: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    stops: Sequence[int],
) -> None:
    """Adapters and the connector beside them, in epochs whose last step is shorter."""
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"dtype": dtype})})
    opened: list[str] = []
    open_image = training.open_image
    monkeypatch.setattr(training, "open_image", lambda name: (opened.append(name), open_image(name))[1])
    history, weights = trained(corpus, examples, settings, tmp_path / "whole", SilentLogger())
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    whole = len(opened)
    for stop in stops:
        folder = tmp_path / str(stop)
        with pytest.raises(Stopped):
            trained(corpus, examples, settings, folder, StoppingLogger(stop))
        assert saved(folder) == [stop - 1]
        opened.clear()
        logger = StoppingLogger(0)
        resumed, resumed_weights = trained(corpus, examples, settings, folder, logger)
        assert resumed == history
        assert list(dict.fromkeys(logger.steps)) == list(range(1, STEPS + 1))
        assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())
        assert len(opened) <= whole - 6 * (stop - 1)  # images of the steps before are not decoded again
        assert saved(folder) == [STEPS]
    opened.clear()
    again, again_weights = trained(corpus, examples, settings, folder, SilentLogger())  # killed after its end
    assert again == history and len(opened) == 1  # the one that TRL looks at
    assert all(torch.equal(again_weights[name], tensor) for name, tensor in weights.items())


def test_a_training_killed_at_random_moments_ends_like_an_uninterrupted_one(
    corpus: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    section = settings.finetuned_models
    steps = {"epochs": 1, "steps": 8, "batch_size": 5}
    longer = section.model_copy(
        update={
            "vlm_captions": section.vlm_captions.model_copy(update=steps),
            "vlm_instructions": section.vlm_instructions.model_copy(update={**steps, "caption_replay": 0.5}),
        }
    )
    settings = settings.model_copy(update={"finetuned_models": longer})
    report = run_with_kills(finetune_vlm.run, corpus, settings, {"subset": "all"}, tmp_path, seed=1)
    print(report)
    assert len(report.steps_at_kills) == KILLS and report.steps == 16
    assert report.same_steps and report.same_curve and report.same_weights and not report.left
