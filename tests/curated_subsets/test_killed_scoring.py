"""Killed scoring: the run, its workers, and between its last steps. `kills` repeats this more often, by hand."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
from rsqa_pipeline.curated_subsets.scoring.shards import quarantine_path
from tests.curated_subsets.counting_scorer import CountingSpec, passes
from tests.curated_subsets.kills import SHARD_ROWS, KillReport, run_with_kills, write_data


def _check_report(report: KillReport, workers: int) -> None:
    assert report.same_scores and report.same_quarantine
    assert report.scored_again == 0  # no text of a finished shard
    assert report.passes <= report.needed + report.kills * workers * SHARD_ROWS


def test_killed_runs_with_changing_workers_equal_an_undisturbed_run(tmp_path: Path) -> None:
    report = run_with_kills(tmp_path, 4, "local", (1, 2), seed=3)
    assert report.kills == 4 and report.finished_at_kill[-1] > 0
    _check_report(report, 2)


def test_killed_worker_ends_the_run_with_a_clear_error_and_the_next_run_resumes(tmp_path: Path) -> None:
    report = run_with_kills(tmp_path, 1, "local", (2,), seed=4, workers_only=True)
    assert report.kills == 1
    assert "one of 2 workers died" in (tmp_path / "errors.txt").read_text()
    _check_report(report, 2)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra cluster)")
def test_ray_gives_the_same_table_after_a_worker_is_killed(tmp_path: Path) -> None:
    report = run_with_kills(tmp_path, 1, "ray", (2,), seed=5, workers_only=True, rows=200)
    assert report.kills == 1 and len({process for process, _ in passes(tmp_path / "killed.log")}) >= 2
    _check_report(report, 2)


def test_run_killed_before_its_shards_are_deleted_scores_nothing_twice(tmp_path: Path) -> None:
    """Both the table and the shards exist, or only the quarantine was written."""
    source, out = write_data(tmp_path), tmp_path / "out.parquet"
    spec = CountingSpec(tmp_path / "log.txt")
    score_file(spec, source, out, SHARD_ROWS, Engine())
    whole, quarantine, count = pq.read_table(out), pq.read_table(quarantine_path(out)), len(passes(spec.log))
    shards = tmp_path / "out.shards"
    shards.mkdir()
    (shards / "00000000-0000000000000000.scores.parquet").write_bytes(b"of another time")
    score_file(spec, source, out, SHARD_ROWS, Engine())
    assert pq.read_table(out).equals(whole) and pq.read_table(quarantine_path(out)).equals(quarantine)
    refused = sum(text.startswith("nothing") for _, text in passes(spec.log)[:count])
    assert len(passes(spec.log)) == count + refused  # what was quarantined is tried again
    assert not shards.exists()
    shutil.rmtree(tmp_path)
