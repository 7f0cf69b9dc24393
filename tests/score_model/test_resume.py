"""A killed training resumes from its last state and ends like an uninterrupted one; a stale state is never used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rsqa_pipeline.models.load import load_processor
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.score_model.training import train
from rsqa_pipeline.score_model.training.checkpoints import Progress, TrainingState, state_key
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.score_model.examples import colour_pairs, write_pairs
from tests.score_model.runs import start, steps_saved, wait_for

Small = Callable[..., Profile]


@pytest.fixture
def inputs(tmp_path: Path, model: ScoreModel, base_models: Path, images: dict[str, str]) -> dict[str, Path]:
    """The caption phase's inputs; the model that it starts from has a random head."""
    model.save_pretrained(tmp_path / "head" / "model")
    load_processor(base_models / "vlm").save_pretrained(tmp_path / "head" / "model")
    rows = colour_pairs(images, "train") + colour_pairs(images, "heldout")
    return {"score_head": tmp_path / "head", "caption_preferences": write_pairs(tmp_path / "pairs", rows)}


def settings_of(profile: Small, state_steps: int = 1, **changes: object) -> Profile:
    settings = profile(**changes)
    score_model = settings.score_model.model_copy(update={"state_steps": state_steps})
    return settings.model_copy(update={"score_model": score_model})


def test_a_training_killed_repeatedly_ends_like_an_uninterrupted_one(
    tmp_path: Path, inputs: dict[str, Path], profile: Small
) -> None:
    settings = settings_of(profile, epochs=20, keep="best", lora={"rank": 2, "alpha": 4})
    (tmp_path / "whole").mkdir()
    train.run_caption_phase(inputs, tmp_path / "whole", settings, SilentLogger())
    for reached in (7, 22):
        killed = start(tmp_path, inputs, tmp_path / "out", settings)
        wait_for(lambda reached=reached: steps_saved(tmp_path) >= reached)  # type: ignore[misc]
        killed.kill()
        assert killed.wait() == -9
        assert reached <= steps_saved(tmp_path) < 60
        assert not (tmp_path / "out" / "model").exists()
    assert start(tmp_path, inputs, tmp_path / "out", settings).wait() == 0
    for name in ("model/model.safetensors", "history.json", "quarantine.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(tmp_path.glob(".rsqa/*/score_model/*"))


def test_the_key_depends_on_inputs_and_settings(inputs: dict[str, Path], profile: Small) -> None:
    keys = [state_key(inputs, profile()), state_key(inputs, profile(learning_rate=0.5))]
    (inputs["caption_preferences"] / "more.json").write_text("{}")
    keys.append(state_key(inputs, profile()))
    assert len(set(keys)) == 3 and keys[2] == state_key(inputs, profile())


def test_a_state_with_another_key_is_deleted(tmp_path: Path) -> None:
    tensors = {"head.weight": torch.ones(1, 2)}
    TrainingState(tmp_path / "state", "old").save(Progress(step=3), tensors, tensors)
    state = TrainingState(tmp_path / "state", "new")
    assert state.latest() is None and not list((tmp_path / "state").iterdir())


def test_the_newest_complete_state_counts(tmp_path: Path) -> None:
    state = TrainingState(tmp_path / "state", "key")
    for step in (1, 2):
        tensor = {"a": torch.full((2,), float(step))}
        state.save_best(step, tensor)
        state.save(Progress(step=step, best_step=step, best_accuracy=0.5), tensor, tensor)
    (tmp_path / "state" / "key" / "writing").mkdir()  # killed during the next save
    found = TrainingState(tmp_path / "state", "key").latest()
    assert found is not None and found[0].step == 2 and found[1]["a"].tolist() == [2, 2]
    assert state.best(2)["a"].tolist() == [2, 2]
    assert len(list((tmp_path / "state" / "key").iterdir())) == 3
    state.clear()
    assert not (tmp_path / "state").exists()
