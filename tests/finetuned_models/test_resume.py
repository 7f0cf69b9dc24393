"""A killed VLM training resumes from its last checkpoint and ends like an uninterrupted one."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState

from rsqa_pipeline.errors import DataError, ModelError, storage_error
from rsqa_pipeline.finetuned_models import checkpoints, finetune_vlm, training
from rsqa_pipeline.finetuned_models.checkpoints import CheckpointRule, Checkpoints
from rsqa_pipeline.finetuned_models.finetune_vlm import as_sft_examples, train_step
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import SftExample, StepMetrics, TrainingRun
from rsqa_pipeline.models.load import Vlm, base_model, load_vlm
from rsqa_pipeline.profile import Profile, VlmStep
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.state.conftest import Disk
from tests.state.conftest import disk as disk
from tests.state.test_full_disk import full
from tests.training_kills import KILLS, Stopped, StoppingLogger, run_with_kills, save_each_step

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


@pytest.fixture(autouse=True)
def a_checkpoint_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    save_each_step(monkeypatch)


@pytest.fixture
def examples(corpus: dict[str, Path]) -> list[SftExample]:
    return as_sft_examples(subset_samples(corpus, "all", "instruction_samples", "instruction"))


def trained(
    corpus: dict[str, Path],
    examples: Sequence[SftExample],
    settings: Profile,
    folder: Path,
    logger: SilentLogger,
) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
    """History and weights of one step of the fine-tuning."""
    vlm: Vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    history = train_step(vlm, examples, LORA, None, TrainingRun(3, settings.compute, folder, logger), "instructions")
    return history, vlm.model.state_dict()


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("instructions/step-*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_stopped_at_every_step_ends_like_an_uninterrupted_one(
    corpus: dict[str, Path],
    examples: list[SftExample],
    settings: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    """Adapters and the connector beside them, in epochs whose last step is shorter."""
    settings = settings.model_copy(update={"compute": settings.compute.model_copy(update={"dtype": dtype})})
    opened: list[str] = []
    open_image = training.open_image
    monkeypatch.setattr(training, "open_image", lambda name: (opened.append(name), open_image(name))[1])
    history, weights = trained(corpus, examples, settings, tmp_path / "whole", SilentLogger())
    assert [row["step"] for row in history] == list(range(1, STEPS + 1))
    assert saved(tmp_path / "whole") == [STEPS]
    folder = tmp_path / "stopped"
    for stop in range(2, STEPS + 1):
        with pytest.raises(Stopped):
            trained(corpus, examples, settings, folder, StoppingLogger(stop))
        assert saved(folder) == [stop - 1]
        opened.clear()
    logger = StoppingLogger(0)
    resumed, resumed_weights = trained(corpus, examples, settings, folder, logger)
    assert resumed == history
    assert list(dict.fromkeys(logger.steps)) == list(range(1, STEPS + 1))  # the curve is logged in full
    assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())
    assert len(opened) == 1 + 12  # the one that TRL looks at, and the last epoch's: none of the epochs before
    opened.clear()
    again, again_weights = trained(corpus, examples, settings, folder, SilentLogger())  # killed after its end
    assert again == history and len(opened) == 1
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


def stopped(corpus: dict[str, Path], examples: list[SftExample], settings: Profile, folder: Path, step: int) -> Path:
    """The checkpoint of a training that was stopped after a step."""
    with pytest.raises(Stopped):
        trained(corpus, examples, settings, folder, StoppingLogger(step + 1))
    (checkpoint,) = (folder / "instructions").glob("step-*")
    return checkpoint


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_changed_checkpoint_is_not_used(
    corpus: dict[str, Path],
    examples: list[SftExample],
    settings: Profile,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    file: str,
) -> None:
    checkpoint = stopped(corpus, examples, settings, tmp_path, 2)
    content = bytearray((checkpoint / file).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / file).write_bytes(content)
    logger = StoppingLogger(1)
    with pytest.raises(Stopped):  # it starts again, with the first step
        trained(corpus, examples, settings, tmp_path, logger)
    assert f"{checkpoint} has changed since it was written" in caplog.text
    assert not checkpoint.exists()


def test_a_kill_while_a_checkpoint_is_written_or_replaced_costs_at_most_that_one(tmp_path: Path) -> None:
    def write(found: Checkpoints, step: int) -> Path:
        written = found.writing / f"checkpoint-{step}"
        written.mkdir(parents=True)
        (written / "model.safetensors").write_text(f"weights {step}")
        return written

    first = Checkpoints(tmp_path)
    first.keep(write(first, 1), 1)
    write(first, 2)
    killed_while_writing = Checkpoints(tmp_path)
    newest = killed_while_writing.newest()
    assert newest is not None and (newest / "model.safetensors").read_text() == "weights 1"
    assert not killed_while_writing.writing.exists()
    shutil.copytree(newest, tmp_path / "aside")
    killed_while_writing.keep(write(killed_while_writing, 2), 2)
    (tmp_path / "aside").rename(newest)  # killed before it was deleted
    both = Checkpoints(tmp_path)
    newest = both.newest()
    assert newest is not None and (newest / "model.safetensors").read_text() == "weights 2"
    (newest / "model.safetensors").write_text("weights 3")
    previous = both.newest()
    assert previous is not None and (previous / "model.safetensors").read_text() == "weights 1"


def test_a_checkpoint_is_due_after_some_time_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more often than every 30 s, nor than the time of writing allows; a short training has none."""
    clock = [0.0]
    monkeypatch.setattr(checkpoints, "MIN_SECONDS", 30.0)
    monkeypatch.setattr(checkpoints, "MAX_SHARE", 0.05)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def saves(seconds_per_step: float, seconds_to_write: float, steps: int) -> list[int]:
        found = Checkpoints(tmp_path)
        rule, state, control = CheckpointRule(found), TrainerState(max_steps=steps), TrainerControl()
        rule.on_train_begin(None, state, control)
        done = []
        for step in range(1, steps + 1):
            clock[0] += seconds_per_step
            state.global_step = step
            rule.on_step_end(None, state, control)
            if control.should_save:
                done.append(step)
                (found.writing / f"checkpoint-{step}").mkdir(parents=True)
                clock[0] += seconds_to_write
                rule.on_save(None, state, control)
        return done

    assert saves(1, 0, 29) == []
    assert saves(1, 0, 70) == [30, 60, 70]
    assert saves(100, 0, 3) == [1, 2, 3]
    assert saves(10, 4, 20) == [3, 11, 19, 20]  # 80 s between the ends of writing for 4 s


def test_a_full_disk_costs_the_new_checkpoint_only(
    corpus: dict[str, Path],
    examples: list[SftExample],
    settings: Profile,
    tmp_path: Path,
    disk: Disk,
) -> None:
    folder = tmp_path / "disk"
    disk(folder)
    history, weights = trained(corpus, examples, settings, tmp_path / "whole", SilentLogger())
    size = sum(file.stat().st_size for file in stopped(corpus, examples, settings, folder, 1).iterdir())
    for left in (0, size // 8, size // 2, size - 4096):
        with ExitStack() as filled, pytest.raises(Exception) as caught:
            trained(
                corpus,
                examples,
                settings,
                folder,
                StoppingLogger(2, lambda left=left, filled=filled: filled.enter_context(full(folder, left // 1024))),  # type: ignore[misc]
            )
        error = storage_error(caught.value)
        assert error is not None and "free space, and run the same command again" in str(error)
        assert saved(folder) == [1] and not list(folder.glob("*/writing"))
    resumed, resumed_weights = trained(corpus, examples, settings, folder, SilentLogger())
    assert resumed == history
    assert all(torch.equal(resumed_weights[name], tensor) for name, tensor in weights.items())


def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_samples(
    corpus: dict[str, Path], examples: list[SftExample], settings: Profile, tmp_path: Path
) -> None:
    """A word of three of the twelve samples makes it so."""
    vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    others = "user assistant Which colour is the field? red green blue"
    white, known = (set(vlm.processor.tokenizer(text)["input_ids"]) for text in ("white", others))
    assert white - known
    ruined = torch.tensor(sorted(white - known))

    def ruin(_: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output * torch.where(torch.isin(inputs[0], ruined), float("nan"), 1.0).unsqueeze(-1)

    vlm.model.get_input_embeddings().register_forward_hook(ruin)
    step = VlmStep(learning_rate=1e-4, batch_size=2, steps=6, train=["connector"])
    logger = StoppingLogger(0)
    with pytest.raises(ModelError) as caught:
        train_step(vlm, examples, step, None, TrainingRun(3, settings.compute, tmp_path, logger), "captions")
    found = re.fullmatch(
        r"captions: the loss is not a finite number at step (\d), samples (\w+), (\w+); lower .*", str(caught.value)
    )
    assert found is not None
    assert int(found[1]) == len(set(logger.steps)) + 1
    answers = {example.sample_id: example.answer for example in examples}
    assert "white" in {answers[found[2]], answers[found[3]]}


def test_a_gradient_that_is_not_finite_stops_at_its_step(
    corpus: dict[str, Path], examples: list[SftExample], settings: Profile, tmp_path: Path
) -> None:
    """The loss is still finite there. No checkpoint holds the weights that it has ruined."""
    vlm = load_vlm(base_model(corpus["base_models"], "vlm"), settings.compute)
    weight = vlm.model.lm_head.weight.requires_grad_(True)
    calls: list[int] = []

    def ruin(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * (float("inf") if len(calls) == 3 else 1.0)

    weight.register_hook(ruin)
    step = VlmStep(learning_rate=1e-4, batch_size=12, steps=6, train=["embeddings"])
    expected = r"captions: the gradient is not a finite number at step 3, samples (\w+, ){7}\w+ and 4 more; lower"
    with pytest.raises(ModelError, match=expected):
        train_step(vlm, examples, step, None, TrainingRun(3, settings.compute, tmp_path, SilentLogger()), "captions")
    assert [path.name.split("-")[1] for path in tmp_path.glob("captions/step-*")] == ["000000002"]


@pytest.mark.parametrize("kind", ["caption", "instruction"])
def test_an_empty_subset_is_refused_before_work(
    emptied: Callable[[str], dict[str, Path]], settings: Profile, tmp_path: Path, kind: str
) -> None:
    inputs = emptied(kind)
    with pytest.raises(DataError, match=f"subset empty keeps no {kind} of .*: there is nothing to train on"):
        finetune_vlm.run(inputs, tmp_path / "out", settings, SilentLogger(), subset="empty")
    assert not settings.state.exists()
