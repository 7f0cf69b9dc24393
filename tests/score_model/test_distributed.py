"""Two real processes learn the same as one, with the same loss at every step, with DDP and FSDP, even when killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.materialization.materialize import restricted_profile
from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.profile import Compute, Profile, load_profile
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.training import train
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, pair, write_pairs
from tests.score_model.runs import TORCHRUN, losses, start, steps_saved, wait_for, weights

DEMO = Path(__file__).parents[2] / "configs/profiles/demo.yaml"
Small = Callable[..., Profile]


class RecordingLogger(SilentLogger):
    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.logged.append((step, dict(metrics)))


@pytest.fixture
def inputs(tmp_path: Path, model: ScoreModel, base_models: Path, images: dict[str, str]) -> dict[str, Path]:
    """The caption phase's inputs, including some pairs without an image."""
    model.save_pretrained(tmp_path / "head" / "model")
    load_processor(base_models / "vlm").save_pretrained(tmp_path / "head" / "model")
    rows = colour_pairs(images, "train") + colour_pairs(images, "heldout")
    rows += [pair(None, f"yes {n} field", f"no {n}") for n in range(6)]
    return {"score_head": tmp_path / "head", "caption_preferences": write_pairs(tmp_path / "pairs", rows)}


def launched(settings: Profile, fsdp: bool = False, state_steps: int = 200) -> Profile:
    """The settings for several processes, with the keys that the pipeline gives the phase and no others."""
    score_model = settings.score_model.model_copy(update={"fsdp": fsdp, "state_steps": state_steps})
    compute = Compute(device="cpu", launch=TORCHRUN)
    several = settings.model_copy(update={"compute": compute, "score_model": score_model})
    return restricted_profile(several, assets_of(load_profile(str(DEMO)))["caption_score_model"])


def assert_same(one: Path, several: Path) -> None:
    assert len(losses(one)) >= 8
    for (step, loss), (other_step, other) in zip(losses(one), losses(several), strict=True):
        assert step == other_step and other == pytest.approx(loss, abs=1e-3)
    expected = weights(one)
    for name, tensor in weights(several).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-3, rtol=0, msg=name)


@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_learn_the_same_as_one(
    tmp_path: Path, inputs: dict[str, Path], profile: Small, fsdp: bool
) -> None:
    settings = profile(epochs=4, train=["vision", "language", "head"], gradient_accumulation=2, learning_rate=3e-4)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    logger, single_logger = RecordingLogger(), RecordingLogger()
    expected = train.run_caption_phase(inputs, tmp_path / "one", settings, single_logger)
    found = train.run_caption_phase(inputs, tmp_path / "two", launched(settings, fsdp), logger)
    assert found == pytest.approx(expected, abs=0.1) and found["train_loss"] < 0.9
    assert_same(tmp_path / "one", tmp_path / "two")
    assert [step for step, _ in logger.logged] == [step for step, _ in single_logger.logged]
    names = [sorted(file.name for file in (tmp_path / name).rglob("*")) for name in ("one", "two")]
    assert names[0] == names[1]


def test_killed_processes_leave_nothing_running_and_a_state_to_resume_from(
    tmp_path: Path, inputs: dict[str, Path], profile: Small
) -> None:
    settings = profile(epochs=6, train=["language", "head"], learning_rate=3e-4)
    (tmp_path / "one").mkdir()
    train.run_caption_phase(inputs, tmp_path / "one", settings, SilentLogger())
    several = launched(settings, fsdp=True, state_steps=2)
    killed = start(tmp_path, inputs, tmp_path / "two", several)
    wait_for(lambda: steps_saved(tmp_path) >= 4)
    family = psutil.Process(killed.pid).children(recursive=True)
    assert len(family) >= 3
    killed.kill()
    killed.wait()
    wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in family))
    assert 4 <= steps_saved(tmp_path) < 27
    assert start(tmp_path, inputs, tmp_path / "two", several).wait() == 0
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_fault_in_several_processes_is_raised_as_with_one(
    tmp_path: Path, inputs: dict[str, Path], profile: Small
) -> None:
    write_pairs(inputs["caption_preferences"], [pair(str(tmp_path / "none.png"), "a", "b")])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="1 read, 1 with a fault"):
        train.run_caption_phase(inputs, tmp_path / "out", launched(profile()), SilentLogger())


def test_a_missing_launcher_is_a_clear_error(tmp_path: Path, inputs: dict[str, Path], profile: Small) -> None:
    settings = profile().model_copy(update={"compute": Compute(device="cpu", launch=["no-such-launcher"])})
    with pytest.raises(ModelError, match=r"compute\.launch cannot be started.*no-such-launcher"):
        train.run_caption_phase(inputs, tmp_path, settings, SilentLogger())
