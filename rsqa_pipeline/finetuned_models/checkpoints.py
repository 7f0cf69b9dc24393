"""The checkpoints from which a killed training resumes, and the rule when one is written.

A checkpoint holds the trained weights, the optimizer, the schedule, the random state and the curve so far. It is
written into ``writing`` and renamed to ``step-<step>-<version>`` when it is complete. The version is that of its
content, so a changed checkpoint is found before it is used.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsqa_pipeline.versions import folder_version, training_key

MIN_SECONDS = 30.0
"""Least time between two checkpoints: what a kill can cost, besides the step that it interrupts."""
MAX_SHARE = 0.05
"""Largest part of a training's time that writing checkpoints takes: large ones are written less often."""

log = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints of one training; the newest one counts."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of this training alone. What a kill left half written is deleted.
        """
        self._folder = folder
        self.writing = folder / "writing"
        """Where a checkpoint is written."""
        self.discard_unfinished()

    def newest(self) -> Path | None:
        """Folder of the newest checkpoint; None before the first. A changed one is deleted, never used."""
        for checkpoint in sorted(self._folder.glob("step-*"), reverse=True):
            if folder_version(checkpoint) == checkpoint.name.split("-", 2)[-1]:
                return checkpoint
            log.warning("checkpoint %s has changed since it was written; it is deleted, not used", checkpoint)
            shutil.rmtree(checkpoint)
        return None

    def keep(self, written: Path, step: int) -> None:
        """Makes a complete checkpoint the newest one, then deletes those that it replaces."""
        replaced = list(self._folder.glob("step-*"))
        written.rename(self._folder / f"step-{step:09d}-{folder_version(written)}")
        for checkpoint in replaced:
            shutil.rmtree(checkpoint)

    def discard_unfinished(self) -> None:
        shutil.rmtree(self.writing, ignore_errors=True)


class CheckpointClock:
    """Says when a checkpoint is due.

    One is due `MIN_SECONDS` after the last one, or later where writing takes long (`MAX_SHARE`). The last step gets one
    if a step before it did: what follows the training can be killed, too.
    """

    def __init__(self, resumed: bool) -> None:
        """Starts when the training does.

        Args:
            resumed: from a checkpoint.
        """
        self._any = resumed
        self._last = self._begun = time.monotonic()
        self._seconds = 0.0

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to write one after ``step`` (from 1) of ``steps``."""
        self._begun = time.monotonic()
        due = self._begun - self._last >= max(MIN_SECONDS, self._seconds / MAX_SHARE)
        return due or (self._any and step >= steps)

    def written(self) -> None:
        """To be called when the one that was due is written."""
        self._any, self._last = True, time.monotonic()
        self._seconds = self._last - self._begun


class CheckpointRule(TrainerCallback):
    """Asks a Hugging Face Trainer for a checkpoint when one is due, and keeps it."""

    _clock: CheckpointClock

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._clock = CheckpointClock(resumed=state.global_step > 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save = self._clock.is_due(state.global_step, state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._checkpoints.keep(self._checkpoints.writing / f"checkpoint-{state.global_step}", state.global_step)
        self._clock.written()


def keyed_folder(root: Path, inputs: Mapping[str, Path], settings: Any, module: str) -> Path:
    """Folder below ``root`` for what belongs to these inputs, settings and code. Folders of others are deleted."""
    folder = root / training_key(inputs, settings, module)
    for other in root.iterdir() if root.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    return folder
