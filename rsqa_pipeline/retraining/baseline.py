"""What a commit recorded: metrics, data versions, and outputs out of the DVC cache or remote."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsqa_pipeline.dvc_files.lock import DVC_LOCK, versions_in
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.git import ask_git
from rsqa_pipeline.materialization.materialize import metrics_file
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages.asset import Asset

_SECONDS = 3600
"""Time limit of one DVC command."""


@dataclass(frozen=True)
class Baseline:
    """A commit of this repository that a retraining is compared with."""

    commit: str

    @classmethod
    def before(cls, revision: str) -> Baseline:
        """The last commit that the checked-out one shares with ``revision``: what a pull request started from.

        Raises:
            UsageError: not a git checkout, an unknown revision, or nothing in common with it.
        """
        if ask_git("rev-parse", "HEAD") is None:
            raise UsageError("rsqa retrain compares commits, but this folder is not a git checkout with a commit")
        if ask_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}") is None:
            raise UsageError(
                f"--since: git knows no commit {revision!r}; name a branch or commit of this checkout, and fetch it "
                "first if the clone is shallow (`git fetch --unshallow`)"
            )
        base = ask_git("merge-base", "HEAD", revision)
        if not base:
            raise UsageError(f"--since: {revision!r} and the checked-out commit have no commit in common")
        return cls(base)

    def versions(self) -> dict[str, str]:
        """Data version by asset in the commit's ``dvc.lock``; empty if it has none.

        Raises:
            DataError: the file is not what DVC writes.
        """
        text = ask_git("show", f"{self.commit}:{DVC_LOCK}")
        return {} if text is None else versions_in(text, f"{DVC_LOCK} of commit {self.commit[:12]}")

    def metrics(self, profile: Profile, asset: Asset) -> dict[str, float] | None:
        """The asset's metrics at the commit; None if it recorded none."""
        text = ask_git("show", f"{self.commit}:{metrics_file(profile, asset).as_posix()}")
        found: dict[str, Any] = json.loads(text) if text else {}
        return {name: float(value) for name, value in found.items()} or None

    def fetch(self, folder: Path, into: Path) -> Path:
        """Gets an output's folder as it was at the commit, from the DVC cache or else the remote.

        Raises:
            DataError: neither has it.
        """
        got = into / f"{folder.name}-{self.commit[:12]}"
        done = dvc("get", ".", folder.as_posix(), "--rev", self.commit, "--out", str(got), "--quiet")
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise DataError(
                f"{folder} of commit {self.commit[:12]} is in neither the DVC cache nor its remote ({reason}); push it "
                "from where it was made (`dvc push`)"
            )
        return got


def has_remote() -> bool:
    """Whether DVC has a default remote."""
    done = dvc("config", "core.remote")
    return done.returncode == 0 and bool(done.stdout.strip())


def dvc(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a DVC command in the current folder.

    Raises:
        DataError: it took longer than an hour.
    """
    try:
        return subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"dvc {words[0]} did not end within {_SECONDS // 60} minutes; check the remote") from error
