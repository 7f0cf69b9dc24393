"""Runs a training in several processes, started by the profile's launcher (accelerate, torchrun) from inside the stage.

The processes read a job file and write their result, or a fault, beside it. Rank 0's log is forwarded line by line, so
that curves grow during training. The processes end when this process does: each watches its standard input, whose other
end this process holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rsqa_pipeline import errors
from rsqa_pipeline.tracking.run_logger import RunLogger, SilentLogger

Job = Mapping[str, Any]
"""What a training needs to know, as JSON."""

POLL_SECONDS = 0.5
"""Interval between two reads of the processes' log."""


def run_in_processes(
    module: str,
    job: Job,
    launch: Sequence[str],
    logger: RunLogger,
    threads: int | None = None,
    stopped: threading.Event | None = None,
) -> Any:
    """Runs ``<launch> -m <module> <job file>`` and returns rank 0's result.

    Args:
        module: calls `run_worker` as its main program.
        launch: the profile's ``compute.launch``, or a Python interpreter.
        threads: processor threads of a single process; None leaves that to the launcher.
        stopped: the processes are killed when another thread sets it.

    Raises:
        RsqaError: the kind that the training raised. ModelError: the launcher cannot be started, or failed otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        folder = Path(scratch)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [*launch, "-m", module, str(folder / "job.json")]
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with _started(command, {**os.environ, **environment}) as process:
            status = _log_to_end(process, folder / "log.jsonl", logger, stopped or threading.Event())
        if (folder / "fault.json").is_file():
            fault = json.loads((folder / "fault.json").read_text(encoding="utf-8"))
            raise getattr(errors, fault["kind"])(fault["message"])
        if status != 0 or not (folder / "result.json").is_file():
            raise errors.ModelError(
                f"{' '.join(command)} ended with status {status} and no result; see its output above"
            )
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def run_worker(job_file: Path, training: Callable[[Job, RunLogger], Any]) -> None:
    """Runs the job's training in a started process. Rank 0 writes its result, as JSON; any process writes its fault."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(job_file.read_text(encoding="utf-8"))
    is_rank_zero = os.environ.get("RANK", "0") == "0"
    logger = LineLogger(job_file.with_name("log.jsonl")) if is_rank_zero else SilentLogger()
    try:
        result = training(job, logger)
    except errors.RsqaError as error:
        fault = {"kind": type(error).__name__, "message": str(error)}
        job_file.with_name("fault.json").write_text(json.dumps(fault), encoding="utf-8")
        sys.exit(str(error))
    if is_rank_zero:
        job_file.with_name("result.json").write_text(json.dumps(result), encoding="utf-8")


class LineLogger:
    """Writes each metric as a line for `run_in_processes` to log; a training logs nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def log_params(self, params: Mapping[str, object]) -> None:
        raise NotImplementedError("a training logs metrics only")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"metrics": dict(metrics), "step": step}) + "\n")

    def log_model(self, name: str, folder: Path) -> None:
        raise NotImplementedError("a training logs metrics only")


@contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, which is killed where the block ends before it."""
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:
        raise errors.ModelError(f"compute.launch cannot be started: {error}") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _log_to_end(process: subprocess.Popen[bytes], log: Path, logger: RunLogger, stopped: threading.Event) -> int | None:
    """Forwards the process's log until it ends or is to stop; returns its exit status."""
    logged = 0
    while not stopped.is_set():
        ended = _has_ended(process)
        logged = _log_new_lines(log, logged, logger)
        if ended:
            break
    return process.returncode


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
