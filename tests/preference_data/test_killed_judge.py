"""A judging process is killed repeatedly: its rows equal those of an uninterrupted run, and no kept reply is bought
again.

A reply is *bought* when the server has sent it in full before the kill, and *kept* when its line is in the log. Between
the two are the network and the client's own threads: 1 to 3 ms in the middle of a run, but up to 300 ms for a process's
first replies on a loaded machine, for reasons only partly known. At most ``concurrency`` replies are in that gap at a
time, and no client can close it alone. A kill may therefore cost that many bought replies; these, and prompts not
answered before the kill, may be asked again. A kept reply is never asked for again.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.preference_data.chat_double import Answer, ChatDouble, Seen
from tests.preference_data.judge_process import CONCURRENCY, first_key, requests

COUNT = 60
KILLS = 4
SCRIPT = Path(__file__).with_name("judge_process.py")


def number_of(seen: Seen) -> int:
    found = re.search(r"caption number (\d+)", seen.prompt)
    assert found is not None
    return int(found[1])


def script(seen: Seen, number: int) -> Answer:
    """Marks that depend only on the caption; every seventh caption is first answered with half a JSON object."""
    caption = number_of(seen)
    if caption % 7 == 0 and seen.body["seed"] == 0:
        return Answer('{"relevance": 3, "speci', delay=0.02)
    marks = {name: 1 + (caption + position) % 5 for position, name in enumerate(("relevance", "specificity"))}
    marks |= {"completeness": 2, "clarity": 3, "richness": 4}
    return Answer(json.dumps(marks), delay=0.02)


def start(url: str, log: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), url, str(log), str(COUNT), str(out)]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def kept(log: Path) -> set[str]:
    """Keys of complete lines with a reply."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return {line["key"] for line in map(json.loads, lines) if "text" in line}


def test_killed_runs_equal_an_uninterrupted_one_and_buy_nothing_twice(tmp_path):
    with ChatDouble(script) as calm:
        assert start(calm.url, tmp_path / "calm.jsonl", tmp_path / "calm.json").wait(timeout=120) == 0
    uninterrupted = json.loads((tmp_path / "calm.json").read_text())

    rng = random.Random(20261121)
    log, out = tmp_path / "log.jsonl", tmp_path / "out.json"
    keys = {number: first_key(request) for number, request in enumerate(requests(COUNT))}
    asked_at_kill: list[int] = []
    kept_at_kill: list[set[str]] = []
    lost: list[int] = []
    with ChatDouble(script) as server:
        for _ in range(KILLS):
            asked_before = len(server.seen)
            process = start(server.url, log, out)
            target = len(server.answered) + rng.randint(1, COUNT // (2 * KILLS))
            while len(server.answered) < target and process.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            own = {id(one) for one in server.seen[asked_before:]}  # without requests in flight from an earlier process
            bought = {keys[number_of(s)] for s in list(server.answered) if s.body["seed"] == 0 and id(s) in own}
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
            asked_at_kill.append(len(server.seen))
            kept_at_kill.append(kept(log))
            lost.append(len(bought - kept_at_kill[-1]))
        assert not out.exists()  # every kill came before the end
        assert start(server.url, log, out).wait(timeout=120) == 0
        seen = list(server.seen)
    for before, kept_then in zip(asked_at_kill, kept_at_kill, strict=True):
        asked_later = {keys[number_of(one)] for one in seen[before:] if one.body["seed"] == 0}
        assert kept_then and not kept_then & asked_later
    print(f"bought but not kept at each kill: {lost}")
    assert max(lost) <= CONCURRENCY
    assert json.loads(out.read_text()) == uninterrupted
    final = log.read_text().splitlines()
    assert len({json.loads(line)["key"] for line in final}) == len(final) == COUNT + len(range(0, COUNT, 7))


def test_a_line_cut_by_a_kill_is_removed_and_only_its_reply_is_bought_again(tmp_path):
    log, out = tmp_path / "log.jsonl", tmp_path / "out.json"
    with ChatDouble(script) as server:
        assert start(server.url, log, out).wait(timeout=120) == 0
        bought, whole = len(server.answered), out.read_text()
        log.write_bytes(log.read_bytes()[:-25])
        assert start(server.url, log, out).wait(timeout=120) == 0
        assert len(server.answered) == bought + 1 and out.read_text() == whole
