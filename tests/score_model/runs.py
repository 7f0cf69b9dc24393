"""Runs phases as real processes that tests kill, and reads their outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from rsqa_pipeline.profile import Profile

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
STAGE = """
import json, sys
from pathlib import Path
from rsqa_pipeline.score_model.training import train
from rsqa_pipeline.tracking.run_logger import SilentLogger
job = json.load(open(sys.argv[1]))
inputs = {key: Path(path) for key, path in job["inputs"].items()}
train.run_caption_phase(inputs, Path(job["out"]), train.job_settings(job), SilentLogger())
"""
"""The caption phase as a stage runs it, in its own process."""


def start(folder: Path, inputs: dict[str, Path], out: Path, settings: Profile) -> subprocess.Popen[bytes]:
    """Starts the caption phase in its own process, with its state below ``folder``."""
    out.mkdir(exist_ok=True)
    job = {
        "inputs": {key: str(path) for key, path in inputs.items()},
        "out": str(out),
        "settings": settings.model_dump(mode="json", include={"name", "seed", "compute", "score_model"}),
    }
    file = folder / "test_job.json"
    file.write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", STAGE, str(file)], cwd=folder, env=environment)


def steps_saved(folder: Path) -> int:
    """Steps of the newest state below ``folder``; 0 before the first."""
    return max((int(state.name[5:]) for state in folder.glob(".rsqa/*/score_model/caption/*/step-*")), default=0)


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    """Waits until the condition holds; fails after ``seconds``, long enough for a busy machine."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.005)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def losses(out: Path) -> list[tuple[float, float]]:
    """Step and loss of every point of the curve."""
    rows = json.loads((out / "history.json").read_text())
    return [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
