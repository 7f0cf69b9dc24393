"""Kills the building of preferences and the training on them again and again, with a judge behind a real server.

By hand, since it takes minutes: ``python -m tests.pipeline.judged_kills --kills 10``, or with ``--demo`` on all of the
demo's captions and questions with its own settings (half an hour). It prints what it measured and ends with an error
where the tables differ from an undisturbed run's or a reply was bought twice. The server knows Idempotency-Key: replies
that were under way at a kill are sent once more, and counted apart, since a server that does not know it bills them.
`tests/preference_data/test_killed_judge.py` is the short form, and defines bought and kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pandas.testing import assert_frame_equal

from rsqa_pipeline.scenes.corpus import DEMO_SCENES
from tests.pipeline.project import Project, checkout
from tests.preference_data.chat_double import Answer, ChatDouble, Seen

STAGES = ("source_pairs", "tiny_models", "preference_data", "score_model")
TABLES = ("text_preferences", "caption_preferences", "instruction_preferences")
MARKS = ("relevance", "specificity", "completeness", "clarity", "richness")
CONCURRENCY = 4


def script(seen: Seen, number: int) -> Answer:
    """Marks that hang on the prompt alone; one first reply in seven is half a JSON."""
    digest = hashlib.sha256(seen.prompt.encode()).digest()
    if digest[5] % 7 == 0 and seen.body["seed"] == 0:
        return Answer('{"relevance": 3, "speci', delay=0.01)
    return Answer(json.dumps({name: 1 + digest[i] % 5 for i, name in enumerate(MARKS)}), delay=0.01)


def project(root: Path, url: str, captions: int | None) -> Project:
    """A checkout judged by the server: small, or where ``captions`` is None, with the demo's settings."""
    made = checkout(root, captions or DEMO_SCENES)
    path = root / "configs/profiles/smoke.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    if captions is None:
        settings = {**yaml.safe_load((root / "configs/profiles/demo.yaml").read_text()), "name": settings["name"]}
    else:
        settings["preference_data"].update(caption_images=captions // 2, instruction_samples=captions // 2)
        settings["source_pairs"]["instruction_samples"] = captions
        settings["score_model"]["phases"]["caption"]["epochs"] = 2
    settings["score_model"]["state_steps"] = 5 if captions else 20
    server = {"url": url, "concurrency": CONCURRENCY}
    settings["preference_data"].update(
        models={"judge": {"model": "judge", "server": server}}, judge="judge", judge_noise=0.0
    )
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return made


def start(made: Project) -> subprocess.Popen[bytes]:
    words = ["rsqa", "run", *STAGES]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, cwd=made.root, env=made.env, stdout=quiet, stderr=quiet, start_new_session=True)


def kept(made: Project) -> set[str]:
    """Keys of the replies that stand in the logs."""
    lines = [
        line for log in (made.root / ".rsqa/smoke/replies").glob("*.jsonl") for line in log.read_text().split("\n")[:-1]
    ]
    return {line["key"] for line in map(json.loads, lines) if "text" in line}


def asked(seen: Seen) -> tuple[str, int]:
    """Equal for two requests that are the same."""
    content = json.dumps(seen.body["messages"], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest(), int(seen.body["seed"])


def stage_at_work(made: Project) -> str:
    finished = {path.stem for path in (made.root / ".rsqa/smoke/manifests").glob("*.jsonl")}
    order = ("image_text_pairs", *TABLES, "score_head", "caption_score_model", "score_model", "score_model_report")
    return next((name for name in order if name not in finished), "the end")


def seconds_of(made: Project) -> float:
    """How long a run takes that is left alone."""
    started = time.monotonic()
    assert start(made).wait() == 0, "the run failed"
    return time.monotonic() - started


def kill_runs(made: Project, kills: int, moments: random.Random, idle: float, work: float) -> None:
    """Kills ``kills`` runs of the project at random moments of their work, and lets the last one end.

    Args:
        idle: seconds that a run takes with nothing to do.
        work: seconds that all the work takes besides.
    """
    for number in range(kills):
        process = start(made)
        time.sleep(idle + moments.uniform(0, 1.3 * work / kills))  # so that work is left for the last one
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"kill {number + 1}: {'at ' + stage_at_work(made) if running else 'came too late'}", flush=True)
    seconds_of(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--captions", type=int, default=400)
    size.add_argument("--demo", dest="captions", action="store_const", const=None, help="all captions, demo's settings")
    parser.add_argument("--seed", type=int, default=5)
    words = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ChatDouble(script) as calm,
        ChatDouble(script, idempotent=True) as server,
    ):
        undisturbed = project(Path(folder) / "calm" / "project", calm.url, words.captions)
        length = seconds_of(undisturbed)
        replies = len(calm.answered)
        idle = seconds_of(undisturbed)
        assert len(calm.answered) == replies, "a finished run asked again"
        print(f"undisturbed: {length:.0f} s, {replies} replies, {len(kept(undisturbed))} kept", flush=True)
        killed = project(Path(folder) / "killed" / "project", server.url, words.captions)
        kill_runs(killed, words.kills, random.Random(words.seed), idle, length - idle)
        twice = len(server.seen) - len({asked(seen) for seen in server.seen})
        summary = f"{len(server.seen)} replies bought, {twice} of them twice, {server.replayed} sent once more"
        print(f"killed {words.kills} times: {summary}, {len(kept(killed))} kept")
        assert kept(killed) == kept(undisturbed), "the logs hold other replies"
        assert twice == 0 and server.replayed <= CONCURRENCY * words.kills
        for name in TABLES:
            for table in ("pairs", "quarantine"):
                file = f"preference_data/{name}/{table}.parquet"
                assert_frame_equal(pd.read_parquet(killed.data / file), pd.read_parquet(undisturbed.data / file))
        weights = "score_model/score_model/model/model.safetensors"
        assert (killed.data / weights).read_bytes() == (undisturbed.data / weights).read_bytes(), "other weights"
        print("pairs, quarantined rows and the score model's weights are those of the undisturbed run")


if __name__ == "__main__":
    main()
