"""Replies are kept: a killed benchmark gives the same tables and generates nothing twice; a damaged file is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.benchmarks.answers import reply_key
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.errors import DataError

SCRIPT = Path(__file__).with_name("benchmark_process.py")
TABLES = ("predictions", "results", "comparisons")
ITEM = {"image": "a.png", "image_id": "41", "item_id": "count-1"}


def start(folder: Path, models: Path, sets: Path, batch_size: int = 4) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(models), str(sets), str(folder / "out"), str(batch_size)]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)


def kept_keys(folder: Path) -> set[str]:
    """Keys in whole lines of the log."""
    log = folder / ".rsqa" / "killed" / "scores" / "vlm_benchmark" / "replies.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return {key for line in lines for key in json.loads(line.partition(b" ")[2])}


def generated(folder: Path) -> list[str]:
    file = folder / "generated.txt"
    return file.read_text().split() if file.exists() else []


def test_killed_runs_equal_an_uninterrupted_one_and_generate_nothing_twice(
    models: Path, benchmark_sets: Path, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert start(calm, models, benchmark_sets).wait(300) == 0
    everything = generated(calm)
    assert len(set(everything)) == len(everything) == 36
    for wanted in (1, 12, 25):
        process, deadline = start(killed, models, benchmark_sets), time.monotonic() + 300
        while len(kept_keys(killed)) < wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -9
        before, written = kept_keys(killed), len(generated(killed))
        assert wanted <= len(before) < 36
    assert start(killed, models, benchmark_sets).wait(300) == 0
    assert not before & set(generated(killed)[written:])
    assert set(generated(killed)) <= set(everything)
    assert len(set(generated(killed))) == len(generated(killed))
    for table in TABLES:
        assert (killed / "out" / f"{table}.parquet").read_bytes() == (calm / "out" / f"{table}.parquet").read_bytes()
    count = len(generated(killed))
    assert start(killed, models, benchmark_sets, batch_size=3).wait(300) == 0
    assert len(generated(killed)) == count
    for table in TABLES:
        assert (killed / "out" / f"{table}.parquet").read_bytes() == (calm / "out" / f"{table}.parquet").read_bytes()


def test_replies_are_in_the_log_then_in_the_table(tmp_path: Path) -> None:
    with KeptReplies(tmp_path) as kept:
        kept.keep({"a": "3", "b": "ja\n"})
    with KeptReplies(tmp_path) as kept:
        assert (kept["a"], kept["b"], "c" in kept) == ("3", "ja\n", False)
        kept.compact()
        kept.keep({"c": "later"})
    with KeptReplies(tmp_path) as kept:
        assert (len(kept), kept["c"]) == (3, "later")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_batch_is_dropped_whole_and_the_log_goes_on(tmp_path: Path, damage: str) -> None:
    with KeptReplies(tmp_path) as kept:
        kept.keep({"a": "1", "b": "2"})
        kept.keep({"c": "3", "d": "4"})
    log = tmp_path / "replies.jsonl"
    data = log.read_bytes()
    log.write_bytes(data[:-3] if damage == "cut" else data.replace(b'"4"', b'"5"'))
    with KeptReplies(tmp_path) as kept:
        assert [key in kept for key in "abcd"] == [True, True, False, False]
        kept.keep({"c": "3"})
    with KeptReplies(tmp_path) as kept:
        assert kept["c"] == "3"


def test_a_damaged_table_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with KeptReplies(tmp_path) as kept:
        kept.keep({"a": "1"})
        kept.compact()
    table = tmp_path / "replies.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with KeptReplies(tmp_path) as kept:
        assert "a" not in kept
    assert "has changed since it was written" in caplog.text


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with KeptReplies(tmp_path), pytest.raises(DataError):
        KeptReplies(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"item": {**ITEM, "image_id": "42"}},
        {"item": {**ITEM, "image": "a.png#bands=3,2,1"}},
        {"item": {**ITEM, "item_id": "count-2"}},
        {"context": [{"role": "user", "content": "How many ships? One number."}]},
        {"model": "other weights"},
        {"decoding": {"tokens": 9}},
    ],
)
def test_a_key_binds_all_that_a_reply_depends_on(change: dict[str, Any]) -> None:
    question: dict[str, Any] = {"context": [{"role": "user", "content": "How many ships?"}]}
    usual = {"item": ITEM, **question, "model": "weights", "decoding": {"tokens": 8}}
    assert reply_key(**usual) == reply_key(**usual) != reply_key(**{**usual, **change})
    assert reply_key(**usual) == reply_key(**{**usual, "item": {**ITEM, "image": "moved/a.png"}})
