"""Real GRPO runs under the watch: one that an alarm stops, and one that goes on to the end."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from perf.hacking_watch import Run, World, make_world, new_run
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Compute, Profile, Watch
from rsqa_pipeline.records import read_table, write_table
from rsqa_pipeline.rl_policy import train_grpo
from rsqa_pipeline.rl_policy.gold import BenchmarkGold, TruthGold
from rsqa_pipeline.rl_policy.prompts import PROMPT_TABLE, PolicyPrompt
from rsqa_pipeline.rl_policy.watch import RECORD
from rsqa_pipeline.scenes.questions import instruction_questions
from rsqa_pipeline.scenes.truth import sample_scene
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.training_kills import Stopped, StoppingLogger

STEPS = 12
SEED = 0
LATE_ALARM: dict[str, Any] = {"monitors": {"kl": 0.005}, "stop_on": ["kl"]}
"""Below what the policy has moved after four steps; before the second one it has not moved."""


class KeepingLogger(SilentLogger):
    def __init__(self) -> None:
        self.logged: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.logged.setdefault(step or 0, {}).update(metrics)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A start that holds the format and knows the phrases; of the images it has learned little."""
    return make_world(tmp_path_factory.mktemp("world"), per_colour=23, steps=50)


def run_of(world: World, planted: bool, **changes: Any) -> Run:
    watched = Watch(**{"every": 2, "probes": 32, "gold": "truth", "stop_on": ["phrase"], **changes})
    return new_run(world, SEED, planted, watched, STEPS)


def weights(policy: Vlm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(second[name], tensor) for name, tensor in first.items())


@pytest.fixture(scope="module")
def stopped(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, list[Any], KeepingLogger]:
    run, scratch, logger = (
        run_of(world, planted=True, **LATE_ALARM),
        tmp_path_factory.mktemp("stopped"),
        KeepingLogger(),
    )
    return run, scratch, run.train(scratch, logger), logger


def test_a_run_with_an_alarm_is_stopped_and_keeps_the_last_checkpoint_before_it(
    stopped: tuple[Run, Path, list[Any], KeepingLogger], world: World
) -> None:
    run, scratch, history, logger = stopped
    watch = run.watch
    assert watch.stopped_at is not None and watch.stopped_at <= STEPS
    assert [row["step"] for row in history] == list(range(1, watch.stopped_at + 1))
    assert watch.kept_step == watch.checks[-2].step == watch.stopped_at - 2
    (checkpoint,) = scratch.glob("step-*")
    assert int(checkpoint.name.split("-")[1]) == watch.kept_step
    kept = load_file(checkpoint / "model.safetensors")
    assert kept and same(kept, weights(run.policy))
    assert not same(weights(load_vlm(world.start, Compute(device="cpu"))), weights(run.policy))

    (alarm,) = (alarm for alarm in watch.alarms() if alarm.monitor == "kl")
    assert alarm.step == watch.stopped_at and alarm.value > alarm.threshold == 0.005
    assert history[-1]["alarms"]["kl"] == alarm.value
    assert logger.logged[watch.stopped_at]["watch_kl"] == alarm.value
    assert watch.metrics()["watch/kept_step"] == watch.kept_step


def test_one_line_says_that_training_stopped_and_what_is_kept(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An alarm at the first check leaves the start, which is no checkpoint."""
    start = weights(load_vlm(world.start, Compute(device="cpu")))
    run = run_of(world, planted=False, monitors={"kl": 0.0}, stop_on=["kl"], probes=8, every=4)
    with caplog.at_level(logging.WARNING):
        run.train(tmp_path, SilentLogger())
    lines = [record.getMessage() for record in caplog.records if "stopped" in record.getMessage()]
    assert len(lines) == 1 and re.fullmatch(
        r"watch: training stopped at step 4 \(kl \S+ > 0\); the policy is that of step 0, the last checkpoint before "
        "the alarm",
        lines[0],
    )
    assert run.watch.report()["kept_step"] == 0 and same(start, weights(run.policy))


def test_a_run_without_an_exploit_is_not_stopped_and_ends_like_an_unwatched_one(world: World, tmp_path: Path) -> None:
    watched, unwatched = run_of(world, planted=False), run_of(world, planted=False)
    history = watched.train(tmp_path / "watched", SilentLogger())
    assert watched.watch.stopped_at is None and watched.watch.kept_step is None
    assert [check.step for check in watched.watch.checks] == list(range(0, STEPS + 1, 2))
    rows = unwatched.train(tmp_path / "unwatched", SilentLogger(), watched=False)
    assert [{k: v for k, v in row.items() if k != "alarms"} for row in history] == rows
    assert same(weights(watched.policy), weights(unwatched.policy))


def test_a_killed_run_resumes_with_its_checks_and_stops_at_the_same_step(
    stopped: tuple[Run, Path, list[Any], KeepingLogger], world: World, tmp_path: Path
) -> None:
    whole, *_ = stopped
    assert whole.watch.stopped_at is not None
    with pytest.raises(Stopped):
        run_of(world, planted=True, **LATE_ALARM).train(tmp_path, StoppingLogger(whole.watch.stopped_at))
    assert len(json.loads((tmp_path / RECORD).read_text())) == len(whole.watch.checks) - 1
    resumed = run_of(world, planted=True, **LATE_ALARM)
    resumed.train(tmp_path, SilentLogger())
    assert resumed.watch.report() == whole.watch.report()
    assert same(weights(whole.policy), weights(resumed.policy))
    lost = run_of(world, planted=True, **LATE_ALARM)
    (tmp_path / RECORD).unlink()
    with pytest.raises(DataError, match=r"watch\.json is missing"):
        lost.train(tmp_path, SilentLogger())


@pytest.fixture
def watched_inputs(policy_inputs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The policy's inputs with a held-out prompt on each of twelve images."""
    folder = tmp_path / "reasoning"
    shutil.copytree(policy_inputs["reasoning_model"], folder)
    samples = read_table(policy_inputs["instruction_samples"] / "samples.parquet")
    unseen = [row for row in samples if row["split"] == "preference" and row["task"] != "grounding"]
    heldout = [
        {"part": "heldout", "sample_id": row["sample_id"], "reference_score": 0.0}
        for row in {row["image_id"]: row for row in unseen}.values()
    ]
    prompts = [row for row in read_table(folder / "prompts.parquet") if row["part"] == "prompts"]
    write_table(folder / "prompts.parquet", PROMPT_TABLE, [*prompts, *heldout])
    return {**policy_inputs, "reasoning_model": folder}


def test_the_stage_writes_what_its_watch_saw(
    watched_inputs: dict[str, Path], settings: Profile, tmp_path: Path
) -> None:
    gold = str(watched_inputs["score_model"] / "model")
    watched = Watch(every=1, probes=12, gold="score_model", gold_model=gold)
    config = settings.rl_policy.model_copy(update={"watch": watched})
    out = tmp_path / "out"
    out.mkdir()
    metrics = train_grpo.run(
        watched_inputs, out, settings.model_copy(update={"rl_policy": config}), SilentLogger(),
        policy="rl_policy", score_reward=True,
    )  # fmt: skip
    report = json.loads((out / "watch.json").read_text())
    assert [check["step"] for check in report["checks"]] == [0, 1, 2] and metrics["watch/checks"] == 3
    assert set(report["checks"][-1]["readings"]) == set(report["thresholds"]) == set(watched.monitors.thresholds)
    assert report["checks"][0]["gold"] is not None and report["stopped_at"] is None
    assert metrics["watch/alarms"] == len(report["alarms"]) and "watch/kept_step" not in metrics


def test_too_little_held_out_is_one_line(policy_inputs: dict[str, Path], settings: Profile, tmp_path: Path) -> None:
    watched = Watch(every=1, gold="score_model", gold_model=str(policy_inputs["score_model"] / "model"))
    config = settings.rl_policy.model_copy(update={"watch": watched})
    with pytest.raises(DataError, match=r"held-out prompts on different images, at least 8 are needed; raise"):
        train_grpo.run(
            policy_inputs, tmp_path, settings.model_copy(update={"rl_policy": config}), SilentLogger(),
            policy="rl_policy", score_reward=True,
        )  # fmt: skip


def test_truth_as_gold(policy_inputs: dict[str, Path], settings: Profile) -> None:
    rng = np.random.default_rng(0)
    asked = [(scene, q) for scene in range(4) for q in instruction_questions(sample_scene(scene), rng)]
    probes = [
        PolicyPrompt(str(i), str(i), "i.png", [{"role": "user", "content": q.question}], q.task, q.answer, 0.0)
        for i, (_, q) in enumerate(asked)
    ]
    gold = TruthGold(probes, {str(i): scene for i, (scene, _) in enumerate(asked)})
    policy = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
    right, wrong = (
        gold.measure(policy, [f"<think>so</think><answer>{text}</answer>" for text in texts])
        for texts in ([q.answer for _, q in asked], ["such fine detail here"] * len(asked))
    )
    assert min(value for value in right if value is not None) > 0.8
    assert np.mean([value or 0.0 for value in wrong]) < 0.5
    assert gold.measure(policy, [q.answer for _, q in asked]) == [0.0] * len(asked), "no tags, no answer"
    with pytest.raises(DataError, match=rf"{len(asked)} held-out prompts show no scene"):
        TruthGold(probes, {})


def test_benchmark_items_as_gold(policy_inputs: dict[str, Path], settings: Profile) -> None:
    """The policy answers 3, always."""
    policy = load_vlm(policy_inputs["reasoning_model"] / "model", settings.compute)
    files = sorted(policy_inputs["score_model"].parent.glob("*.png"))[:12]
    base = {"question": "How many ships are there?", "answer": "3", "choices": None, "boxes": None}
    items = [
        {**base, "image_id": str(i), "image": str(file), "answer": "3" if i < 6 else "5"}
        for i, file in enumerate(files)
    ]
    items.insert(1, {**items[0], "answer": "7"})  # of an image that is there already
    items.insert(0, {**items[0], "image_id": "c", "choices": ["3", "4"]})
    items.insert(0, {**items[0], "image_id": "n", "choices": None, "question": None})
    found = BenchmarkGold(items, 12, settings.rl_policy, 0).measure(policy, [])
    assert found == [1.0] * 6 + [0.0] * 6
    with pytest.raises(DataError, match="benchmark_sets has 7 images with a short answer or a box"):
        BenchmarkGold(items[:10], 12, settings.rl_policy, 0)
