"""Seeds trained at once, each in a process of its own: the models and curves of one seed after the other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rsqa_pipeline.errors import ModelError
from rsqa_pipeline.finetuned_models import finetune_clip, finetune_vlm
from rsqa_pipeline.finetuned_models.seeds import train_in_process, train_seeds
from rsqa_pipeline.finetuned_models.training import StepMetrics, TrainingRun
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tracking.run_logger import SilentLogger

SEEDS = [3, 4, 5]
STAGES = {"clip": finetune_clip, "vlm": finetune_vlm}


class Curves(SilentLogger):
    """Keeps the steps at which each metric was logged."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int | None]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name in metrics:
            self.steps.setdefault(name, []).append(step)


def with_seeds(settings: Profile, at_once: int) -> Profile:
    section = settings.finetuned_models.model_copy(update={"seeds": SEEDS, "parallel_seeds": at_once})
    return settings.model_copy(update={"finetuned_models": section})


def history(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
    return rows


@pytest.mark.parametrize("kind", STAGES)
def test_two_seeds_at_once_give_the_models_of_one_after_the_other(
    kind: str, corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    one, two = folder("one"), folder("two")
    plain, parallel = Curves(), Curves()
    expected = STAGES[kind].run(corpus, one, with_seeds(settings, 1), plain, subset="all")
    assert STAGES[kind].run(corpus, two, with_seeds(settings, 2), parallel, subset="all") == pytest.approx(
        expected, abs=1e-4
    )
    assert parallel.steps == plain.steps and any(name.startswith("seed_5/") for name in plain.steps)
    assert [(row["seed"], row["phase"], row["step"]) for row in history(two)] == [
        (row["seed"], row["phase"], row["step"]) for row in history(one)
    ]
    for name in ("model", "model_seed_4", "model_seed_5"):
        first, second = (load_file(root / name / "model.safetensors") for root in (one, two))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            torch.testing.assert_close(second[key], tensor, atol=2e-3, rtol=0, msg=f"{name} {key}")
    assert sorted(file.name for file in two.rglob("*")) == sorted(file.name for file in one.rglob("*"))


def test_a_seed_that_fails_leaves_the_finished_ones_to_the_next_run(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    trained: list[int] = []

    def train(training_run: TrainingRun, out: Path) -> list[StepMetrics]:
        if training_run.seed == 5 and 5 not in trained:
            trained.append(5)
            raise ModelError("the loss is not a finite number")
        trained.append(training_run.seed)
        out.mkdir()
        return [{"phase": "captions", "step": 1, "loss": float(training_run.seed)}]

    train.__module__ = finetune_vlm.__name__  # whose code is a part of the key that finished seeds are kept under
    out, profile = folder("out"), with_seeds(settings, 2)
    with pytest.raises(ModelError, match="not a finite number"):
        train_seeds("vlm_all", corpus, out, profile, SilentLogger(), train)
    assert not list(out.iterdir())
    histories = train_seeds("vlm_all", corpus, out, profile, SilentLogger(), train)
    assert sorted(trained) == [3, 4, 5, 5]
    assert {seed: rows[0]["loss"] for seed, rows in histories.items()} == {3: 3.0, 4: 4.0, 5: 5.0}
    assert sorted(path.name for path in out.iterdir()) == ["model", "model_seed_4", "model_seed_5"]


def test_an_interruption_ends_the_processes_of_all_seeds(
    corpus: dict[str, Path], settings: Profile, folder: Callable[[str], Path]
) -> None:
    profile, marker = with_seeds(settings, 2), folder("marker") / "process"
    asleep = f"import os, time; open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(600)"

    def train(training_run: TrainingRun, out: Path) -> list[StepMetrics]:
        if training_run.seed == 4:
            return train_in_process("asleep", training_run, out, corpus, profile, [sys.executable, "-c", asleep], {})
        while not (marker.is_file() and marker.read_text()):
            time.sleep(0.05)
        raise KeyboardInterrupt

    train.__module__ = finetune_vlm.__name__
    with pytest.raises(KeyboardInterrupt):
        train_seeds("vlm_all", corpus, folder("out"), profile, SilentLogger(), train)
    assert not psutil.pid_exists(int(marker.read_text()))
