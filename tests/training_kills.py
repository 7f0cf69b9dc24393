"""Kills a training at random moments, as a process of its own, until it has ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.finetuned_models import checkpoints
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.tracking.run_logger import SilentLogger

KILLS = int(os.environ.get("RSQA_KILLS", "2"))
TIMEOUT_SECONDS = 240.0
STEP_SECONDS = 0.5
"""About the time of a step and its checkpoint: a kill hits any moment of it."""

Stage = Callable[..., Mapping[str, float]]
# a server with the libraries loaded, which has done nothing yet, forks each process: no import per kill
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["rsqa_pipeline.rl_policy.train_grpo", "rsqa_pipeline.rl_policy.reasoning_model", "tests.training_kills"]
)


class Stopped(Exception):
    """Stands for a kill where a real process would only be slower."""


class StoppingLogger(SilentLogger):
    """Stops a training, or acts, while it logs a step, before that step's checkpoint."""

    def __init__(self, step: int, action: Callable[[], None] | None = None) -> None:
        self._step, self._action = step, action
        self.steps: list[int | None] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps.append(step)
        if step != self._step:
            return
        if self._action is None:
            raise Stopped
        self._action()


def save_each_step(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is due after each step."""
    patch.setattr(checkpoints, "MIN_SECONDS", 0.0)
    patch.setattr(checkpoints, "MAX_SHARE", 1e9)


@dataclass
class KillReport:
    """What the kills did, and whether the outputs are those of an uninterrupted run."""

    steps: int
    """Optimizer steps of the whole training."""
    steps_at_kills: list[int] = field(default_factory=list)
    """Steps in checkpoints at each kill; 0 before the first."""
    half_written: int = 0
    """Number of kills in the middle of writing a checkpoint."""
    same_steps: bool = False
    same_curve: bool = False
    same_weights: bool = False
    left: list[str] = field(default_factory=list)
    """Files of checkpoints that are left at the end."""


def run_with_kills(
    stage: Stage, inputs: Mapping[str, Path], settings: Any, options: Mapping[str, Any], folder: Path, seed: int
) -> KillReport:
    """Runs a stage without kills in this process, and with `KILLS` kills in processes of their own.

    Args:
        folder: the current one, where the stage keeps its checkpoints; a checkpoint is due after each step.
    """
    whole, out = folder / "whole", folder / "out"
    whole.mkdir()
    stage(inputs, whole, settings, SilentLogger(), **options)
    report = KillReport(len(_curve(whole)))
    rng = random.Random(seed)
    running: BaseProcess | None = None
    while len(report.steps_at_kills) < KILLS:
        running = running or _start(stage, inputs, settings, options, out)
        done = _steps_done(folder)
        left = report.steps - done
        target = done + rng.randint(0, max(1, left // (KILLS - len(report.steps_at_kills) + 1)))
        _wait(running, lambda target=target: _steps_done(folder) >= target)  # type: ignore[misc]
        time.sleep(rng.uniform(0, STEP_SECONDS))
        if not running.is_alive():
            break
        running.kill()
        running.join()
        assert running.exitcode == -9
        report.steps_at_kills.append(_steps_done(folder))
        report.half_written += any(folder.glob(".rsqa/**/writing/checkpoint-*"))
        running = None
    running = running or _start(stage, inputs, settings, options, out)
    running.join()
    assert running.exitcode == 0
    report.same_steps = [row["step"] for row in _curve(out)] == [row["step"] for row in _curve(whole)]
    report.same_curve = _curve(out) == _curve(whole)
    report.same_weights = weights_version(out / "model") == weights_version(whole / "model")
    report.left = [str(path) for path in folder.glob(".rsqa/**/step-*")]
    return report


def _start(
    stage: Stage, inputs: Mapping[str, Path], settings: Any, options: Mapping[str, Any], out: Path
) -> BaseProcess:
    process = _processes.Process(target=_run, args=(stage, dict(inputs), settings, dict(options), out, Path.cwd()))
    process.start()
    return process


def _run(
    stage: Stage, inputs: Mapping[str, Path], settings: Any, options: Mapping[str, Any], out: Path, folder: Path
) -> None:
    os.chdir(folder)
    out.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        save_each_step(patch)
        stage(inputs, out, settings, SilentLogger(), **options)


def _steps_done(folder: Path) -> int:
    """Steps in the checkpoints of all phases."""
    newest: dict[Path, int] = {}
    for checkpoint in folder.glob(".rsqa/**/step-*"):
        step = int(checkpoint.name.split("-")[1])
        newest[checkpoint.parent] = max(step, newest.get(checkpoint.parent, 0))
    return sum(newest.values())


def _wait(running: BaseProcess, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT_SECONDS
    while running.is_alive() and not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


def _curve(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "history.json").read_text())
    return rows
