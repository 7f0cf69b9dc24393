"""Two real processes train a CLIP or a SigLIP as one does: the same loss at every step, and the same weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.finetuned_models import finetune_clip
from rsqa_pipeline.finetuned_models.finetune_clip import train_clip
from rsqa_pipeline.finetuned_models.subset_samples import subset_samples
from rsqa_pipeline.finetuned_models.training import TrainingRun
from rsqa_pipeline.models.load import base_model, load_clip
from rsqa_pipeline.profile import ClipStep, Compute, Profile
from rsqa_pipeline.score_model.training.distributed import ProcessGroup, close_group, init_group
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.runs import TORCHRUN, losses, weights

STEP = ClipStep(learning_rate=3e-4, batch_size=5, gradient_accumulation=2, steps=5, weight_decay=0.1, warmup_steps=1)
"""A batch of five in two processes: three samples and two; and at the end of an epoch one and one."""
CASES = {
    "clip": ("corpus", STEP),
    "clip in chunks, frozen tower": ("corpus", STEP.model_copy(update={"chunk_size": 2, "frozen_vision": True})),
    "siglip": ("siglip_corpus", STEP),
    "siglip in chunks": ("siglip_corpus", STEP.model_copy(update={"chunk_size": 1})),
}
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["rsqa_pipeline.finetuned_models.finetune_clip"])


def train(inputs: dict[str, Path], step: ClipStep, scratch: Path, group: ProcessGroup) -> dict[str, torch.Tensor]:
    """Trained weights, and the losses beside them."""
    scratch.mkdir(exist_ok=True)
    compute = Compute(device="cpu")
    clip = load_clip(base_model(inputs["base_models"], "clip"), compute)
    rows = subset_samples(inputs, "all", "image_text_pairs", "caption")
    history = train_clip(clip, rows, step, TrainingRun(3, compute, scratch, SilentLogger()), group)
    return {**clip.model.state_dict(), "losses": torch.tensor([row["loss"] for row in history])}


def _process(rank: int, port: int, inputs_of: dict[str, dict[str, Path]], folder: Path) -> None:
    """All cases, in one of two processes, as torchrun starts them."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    group = init_group(Compute(device="cpu"))
    found = {name: train(inputs_of[inputs], step, folder / name, group) for name, (inputs, step) in CASES.items()}
    close_group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def by_two(
    corpus: dict[str, Path], siglip_corpus: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Of each process: case -> weights and losses."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inputs_of = {"corpus": corpus, "siglip_corpus": siglip_corpus}
    started = [_processes.Process(target=_process, args=(rank, port, inputs_of, folder)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(600)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_the_same_as_one(
    request: pytest.FixtureRequest, by_two: list[dict[str, dict[str, torch.Tensor]]], tmp_path: Path, case: str
) -> None:
    inputs, step = CASES[case]
    one = train(request.getfixturevalue(inputs), step, tmp_path / "one", ProcessGroup(torch.device("cpu")))
    first, second = (found[case] for found in by_two)
    assert len(one["losses"]) == 5 and one["losses"].std() > 1e-3
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        # Adam divides by a gradient's size, so where that is tiny a difference in its last digits moves the weight
        torch.testing.assert_close(
            first[name], tensor, atol=1e-5 if name == "losses" else STEP.learning_rate, rtol=0, msg=name
        )


def test_the_stage_starts_the_processes_of_the_profile(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    section = settings.finetuned_models.model_copy(update={"clip": STEP})
    alone = settings.model_copy(update={"finetuned_models": section})
    launched = alone.model_copy(update={"compute": Compute(device="cpu", launch=TORCHRUN)})
    one, two = folder("one"), folder("two")
    expected = finetune_clip.run(corpus, one, alone, SilentLogger(), subset="all")
    assert finetune_clip.run(corpus, two, launched, SilentLogger(), subset="all") == pytest.approx(expected, abs=1e-4)
    assert dict(losses(two)) == pytest.approx(dict(losses(one)), abs=1e-5)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, weights(one)[name], atol=STEP.learning_rate, rtol=0, msg=name)
    assert sorted(file.name for file in two.rglob("*")) == sorted(file.name for file in one.rglob("*"))
    assert json.loads((two / "history.json").read_text())[0]["seed"] == 3


def test_a_missing_launcher_is_a_clear_error(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    launched = settings.model_copy(update={"compute": Compute(device="cpu", launch=["no-such-launcher"])})
    with pytest.raises(ModelError, match=r"compute\.launch cannot be started.*no-such-launcher"):
        finetune_clip.run(corpus, folder("out"), launched, SilentLogger(), subset="all")
