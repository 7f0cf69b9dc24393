"""`rsqa run`: starts the work in a process of its own, shows its progress and stops it at once when asked to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rsqa_pipeline.cli.processes import INTERRUPTED, stop_group, stop_signals
from rsqa_pipeline.errors import RsqaError
from rsqa_pipeline.profile import Profile

KEPT_LOGS = 20
_POLL_SECONDS = 0.25
_BAR = re.compile(r"([\w ,.:()-]*?):?\s*(\d+)%\|[^|]*\|\s*(\d+)/(\d+)")
"""A progress bar that the work draws into its log."""
_KEY_FIGURES = (
    ("accuracy.score_model.all.truth", "held-out accuracy {:.1%} (truth)"),
    ("accuracy.score_model.all.judge", "held-out accuracy {:.1%}"),
    ("heldout_accuracy", "held-out accuracy {:.1%}"),
    ("reward_difference", "held-out reward {:+.3f}"),
    ("score_model/all_tasks/best_of_16", "score model's pick right {:.1%}"),
    ("instructions_final_loss", "loss {:.3f}"),
    ("final_loss", "loss {:.3f}"),
    ("psi", "PSI {:.2f}"),
    ("kept_rows", "{:,.0f} rows"),
)
"""The one figure shown behind an asset: the first metric that it has, in words."""


class Interrupted(RsqaError):
    """The run was stopped by Ctrl-C or SIGTERM."""

    exit_code = INTERRUPTED


@dataclass
class RunOutcome:
    """What a run did, by asset name."""

    computed: list[str]
    unchanged: list[str]
    recorded: list[str]
    log: Path


class RunFailed(RsqaError):
    """An asset failed; assets that do not depend on it were made."""


@dataclass
class _State:
    """What the terminal knows of the run."""

    names: list[str] = field(default_factory=list)
    estimates: Mapping[str, float | None] = field(default_factory=dict)
    done: int = 0
    current: str = ""
    finished: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def position(self) -> str:
        width = len(str(len(self.names)))
        return f"[{min(self.done + 1, len(self.names)):>{width}}/{len(self.names)}]"

    def remaining(self) -> str:
        """Estimate of what is left, from what each asset took last time."""
        left = [self.estimates.get(name) for name in self.names[self.done :]]
        known = [seconds for seconds in left if seconds is not None]
        if not left or not known:
            return ""
        unknown = len(left) - len(known)
        return f"about {duration(sum(known))} left" + (f", {unknown} assets never timed" if unknown else "")


def run_assets(
    profile: Profile, profile_name: str, names: list[str], force: bool, console: Console, verbose: bool, quiet: bool
) -> RunOutcome:
    """Makes assets in a child process and shows one line per asset.

    Raises:
        RunFailed: an asset failed, or the work could not start. Interrupted: Ctrl-C or SIGTERM stopped it.
    """
    log = _new_log(profile)
    reader, writer = os.pipe()
    words = [sys.executable, "-m", "assets.worker", profile_name, str(writer), *(["--force"] if force else []), *names]
    with log.open("w", encoding="utf-8") as output, stop_signals():
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(writer,), start_new_session=True
        )
        os.close(writer)
        state = _State()
        try:
            _watch(child, reader, log, state, console, verbose, quiet)
        except (KeyboardInterrupt, Interrupted):
            stop_group(child)
            raise Interrupted(
                f"stopped at {state.current or 'the start'}; run the same command again to resume after the last "
                f"finished asset. Log: {log}"
            ) from None
        finally:
            os.close(reader)
    if state.finished is None:
        raise _failure(state, child.returncode, log)
    return RunOutcome(**{key: state.finished[key] for key in ("computed", "unchanged", "recorded")}, log=log)


def _watch(
    child: subprocess.Popen[bytes],
    reader: int,
    log: Path,
    state: _State,
    console: Console,
    verbose: bool,
    quiet: bool,
) -> None:
    """Follows the child to its end."""
    os.set_blocking(reader, False)
    buffer, shown = b"", 0
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    live = Progress(*columns, console=console, transient=True, disable=quiet or verbose or not console.is_terminal)
    with live:
        task = live.add_task("starting", total=None)
        ended = False
        while not ended:
            ended = child.poll() is not None
            buffer += _read(reader)
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                _handle(json.loads(line), state, live.console if live.live.is_started else console, quiet)
            if verbose:
                shown = _print_new(log, shown)
            bar = _last_bar(log) if not live.disable else None
            detail = f" {bar[0]} {bar[1]}/{bar[2]}" if bar else ""
            live.update(
                task,
                description=f"{state.position if state.names else ''} {state.current}{detail} {state.remaining()}",
                total=bar[2] if bar else None,
                completed=bar[1] if bar else 0,
            )
            if not ended:
                time.sleep(_POLL_SECONDS)


def _handle(event: Mapping[str, Any], state: _State, console: Console, quiet: bool) -> None:
    match event["event"]:
        case "plan":
            state.names, state.estimates = event["names"], event["estimates"]
            if not quiet and state.names:
                console.print(f"{len(state.names)} assets to make, {event['unchanged']} unchanged")
        case "start":
            state.current = event["asset"]
        case "end":
            if not quiet:
                figure = _key_figure(event["metrics"])
                seconds = "unchanged" if event["reused"] else duration(event["seconds"])
                console.print(f"{state.position} {event['asset']:<26} {seconds:>11}  {figure}")
            state.done += 1
            state.current = ""
        case "finished":
            state.finished = dict(event)
        case "error":
            state.error = dict(event)


def _failure(state: _State, code: int | None, log: Path) -> RsqaError:
    if state.error is None:
        where = f" at {state.current}" if state.current else ""
        return RunFailed(f"the run ended{where} with status {code} and no result; its last words are in {log}")
    failure = RunFailed(f"{state.error['message']}\nlog: {log}")
    failure.exit_code = int(state.error["code"])
    return failure


def _new_log(profile: Profile) -> Path:
    folder = profile.state / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob("run-*.log"))[: -(KEPT_LOGS - 1)]:
        old.unlink()
    return folder / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def _print_new(log: Path, shown: int) -> int:
    with log.open("rb") as file:
        file.seek(shown)
        new = file.read()
    sys.stderr.write(new.decode("utf-8", errors="replace"))
    return shown + len(new)


def _last_bar(log: Path) -> tuple[str, int, int] | None:
    """(label, done, total) of the bar that the work drew last."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        found = _BAR.findall(file.read().decode("utf-8", errors="replace").replace("\r", "\n").rpartition("\n")[2])
    if not found:
        return None
    label, _, done, total = found[-1]
    return label.strip(), int(done), int(total)


def _key_figure(metrics: Mapping[str, float]) -> str:
    return next((words.format(metrics[name]) for name, words in _KEY_FIGURES if name in metrics), "")


def duration(seconds: float) -> str:
    """``7 s`` or ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
