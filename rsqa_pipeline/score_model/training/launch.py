"""Runs a phase in several processes, started by the profile's launcher (accelerate, torchrun) from inside the stage.

The processes read a job file and write metrics, or a fault, beside it. Rank 0's log is forwarded line by line, so that
curves grow during training. The processes end when this process does: each watches its standard input, whose other end
this process holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline import errors
from rsqa_pipeline.profile import Compute, Profile, ScoreModelSettings
from rsqa_pipeline.profile.score_model import LastPhase, ScoreModelPhase, ScoreModelPhases
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.tracking.run_logger import RunLogger, SilentLogger

PhaseFunction = Callable[[Any, Mapping[str, Path], Path, Profile, RunLogger], Metrics]

PHASES: Mapping[str, type[ScoreModelPhase]] = {
    "text": ScoreModelPhase,
    "caption": ScoreModelPhase,
    "instruction": LastPhase,
}
POLL_SECONDS = 0.5
"""Interval between two reads of the processes' log."""


def run_in_processes(
    module: str, name: str, inputs: Mapping[str, Path], out: Path, settings: Profile, logger: RunLogger
) -> Metrics:
    """Runs the phase as ``<launch> -m <module> <job file>`` and returns its metrics.

    Raises:
        RsqaError: the kind that the phase raised. ModelError: the launcher cannot be started, or it failed otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="score-model-") as scratch:
        folder = Path(scratch)
        job = {
            "phase": name,
            "inputs": {key: str(path) for key, path in inputs.items()},
            "out": str(out),
            "settings": settings.model_dump(mode="json", include={"name", "seed", "compute", "score_model"}),
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [*settings.compute.launch, "-m", module, str(folder / "job.json")]
        status = _run_and_log(command, folder / "log.jsonl", logger)
        if (folder / "fault.json").is_file():
            fault = json.loads((folder / "fault.json").read_text(encoding="utf-8"))
            raise getattr(errors, fault["kind"])(fault["message"])
        if status != 0 or not (folder / "metrics.json").is_file():
            raise errors.ModelError(
                f"{' '.join(command)} ended with status {status} and no metrics; see its output above"
            )
        metrics: Metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics


def run_worker(job_file: Path, phase: PhaseFunction) -> None:
    """Runs the job's phase in a started process. Rank 0 writes its metrics; any process writes its fault."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(job_file.read_text(encoding="utf-8"))
    is_rank_zero = os.environ.get("RANK", "0") == "0"
    logger = LineLogger(job_file.with_name("log.jsonl")) if is_rank_zero else SilentLogger()
    inputs = {key: Path(path) for key, path in job["inputs"].items()}
    try:
        metrics = phase(job["phase"], inputs, Path(job["out"]), _settings(job["settings"]), logger)
    except errors.RsqaError as error:
        fault = {"kind": type(error).__name__, "message": str(error)}
        job_file.with_name("fault.json").write_text(json.dumps(fault), encoding="utf-8")
        sys.exit(str(error))
    if is_rank_zero:
        job_file.with_name("metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


class LineLogger:
    """Writes each metric as a line for `run_in_processes` to log; a phase logs nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def log_params(self, params: Mapping[str, object]) -> None:
        raise NotImplementedError("a phase logs metrics only")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"metrics": dict(metrics), "step": step}) + "\n")

    def log_model(self, name: str, folder: Path) -> None:
        raise NotImplementedError("a phase logs metrics only")


def _settings(dump: Mapping[str, Any]) -> Profile:
    """Rebuilds from JSON the profile that a stage function gets, which has only the keys that its asset lists."""
    phases: dict[str, Any] = {
        name: phase and PHASES[name].model_validate(phase) for name, phase in dump["score_model"]["phases"].items()
    }
    section = {**dump["score_model"], "phases": ScoreModelPhases.model_construct(**phases)}
    return Profile.model_construct(
        name=dump["name"],
        seed=dump["seed"],
        compute=Compute.model_validate(dump["compute"]),
        score_model=ScoreModelSettings.model_construct(**section),
    )


def _run_and_log(command: list[str], log: Path, logger: RunLogger) -> int:
    """Runs a command in its own process group, forwards its log and returns its exit status."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        raise errors.ModelError(f"compute.launch cannot be started: {error}") from error
    logged = 0
    try:
        while True:
            ended = _has_ended(process)
            logged = _log_new_lines(log, logged, logger)
            if ended:
                return process.returncode
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _log_new_lines(log: Path, logged: int, logger: RunLogger) -> int:
    """Logs the complete lines after the first ``logged``; returns how many there are now."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    for line in lines[logged:]:
        entry = json.loads(line)
        logger.log_metrics(entry["metrics"], step=entry["step"])
    return len(lines)


def _end_with_parent() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock a thread may not hold when the process ends
        pass
    os._exit(1)
