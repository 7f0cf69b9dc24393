"""The VLM benchmark end to end on an untrained VLM, and its grades for known replies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.benchmarks.answers import context_of
from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.kept_replies import KeptReplies
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.benchmarks.vlm_benchmark import PLAIN, REASONING, evaluate, run
from rsqa_pipeline.models.load import Vlm, load_vlm
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, read_table
from rsqa_pipeline.scenes.asking import choice_text
from rsqa_pipeline.source_pairs.class_questions import ask as class_question
from rsqa_pipeline.source_pairs.scene_classes import CLASS_QUESTION
from rsqa_pipeline.tracking.run_logger import SilentLogger

POLICIES = ["rl_policy", "rl_policy_rules_only"]


@pytest.fixture(scope="module")
def vlm(models: Path, settings: Profile) -> Vlm:
    return load_vlm(models / "vlm", settings.compute)


@pytest.fixture
def tasks(benchmark_sets: Path) -> TaskItems:
    return read_items(benchmark_sets, load_tasks("vlm"))


def knowing_generate(tasks: TaskItems, wrap: str) -> Any:
    """A fake ``generate`` that knows the answer to every question of the tasks."""
    known: dict[str, str] = {}
    for task, items in tasks:
        for item in items:
            box = f"[{', '.join(str(side) for side in item['boxes'][0])}]" if item["boxes"] else ""
            known[context_of(task, item)[0]["content"]] = box or item["answer"]

    def generate(_: Vlm, chats: Sequence[Sequence[Message]], *__: object) -> list[list[str]]:
        asked = [chat[-1]["content"] for chat in chats]
        return [[wrap.format(next(known[q] for q in known if text.startswith(q)))] for text in asked]

    return generate


@pytest.mark.parametrize(
    ("reply_format", "wrap", "marks"),
    [
        (PLAIN, "{}", (1.0, 1.0)),
        (PLAIN, "{}. that is it", (0.0, 1.0)),
        (PLAIN, "", (0.0, 0.0)),
        (REASONING, "<think>I look.</think><answer>{}</answer>", (1.0, 1.0)),
        (REASONING, "<think>I look.</think><answer>{}. that is it</answer>", (0.0, 1.0)),
        (REASONING, "{}", (0.0, 0.0)),
        (REASONING, "<think>I look.</think><answer>{}", (0.0, 0.0)),
    ],
)
def test_replies_are_read_in_the_models_format(
    vlm: Vlm,
    tasks: TaskItems,
    reply_format: Any,
    wrap: str,
    marks: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # left out: class questions and captions have many right replies, and a box is read anywhere in the reply
    skipped = {"scene_class", "caption"} | ({"grounding"} if "that is it" in wrap else set())
    kept = [(task, items) for task, items in tasks if task.name not in skipped]
    monkeypatch.setattr("rsqa_pipeline.benchmarks.answers.generate", knowing_generate(kept, wrap))
    with KeptReplies(tmp_path / "replies") as replies:
        outcomes = evaluate(vlm, "base", kept, reply_format, 6, 4, replies)
    assert len(outcomes) == 2 * 6 * len(kept)
    lenient = {outcome.correct for outcome in outcomes if outcome.metric == "lenient_accuracy"}
    strict = {outcome.correct for outcome in outcomes if outcome.metric != "lenient_accuracy"}
    assert (strict, lenient) == ({marks[0]}, {marks[1]})


def test_prompts_of_every_task_are_frozen(tasks: TaskItems) -> None:
    asked = {task.name: context_of(task, items[0])[0]["content"] for task, items in tasks}
    assert asked == {
        "caption": "Describe this satellite image in detail.",
        "choice": "What is at 0?\nA. river\nB. beach\nanswer with one letter.",
        "count": "How many long ships are there?",
        "grounding": "Where is ship 0?",
        "presence": "Is there a ship near pier 0?",
        "scene_class": "what class of scene is this?",
    }


def test_training_and_benchmark_use_the_same_prompts() -> None:
    """Training on scenes and on real images uses exactly the texts of the tasks."""
    prompts = {task.name: task.prompts[0] for task in load_tasks("vlm")}
    assert prompts["scene_class"] == CLASS_QUESTION
    scene = choice_text("which?", ("river", "beach", "port", "park"))
    item = {"question": "which?", "choices": ["river", "beach", "port", "park"]}
    task = next(task for task in load_tasks("vlm") if task.name == "choice")
    assert context_of(task, item)[0]["content"] == scene
    photo = class_question("choice", "river", ["beach", "park", "port", "river"], "key")
    item = {"question": photo.text, "choices": photo.choice_words}
    assert context_of(task, item) == photo.messages


def test_run_writes_every_table(
    models: Path, benchmark_sets: Path, settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the profile's state, with the kept replies, is below the working folder
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "model").symlink_to(models / "vlm")
    subsets = list(settings.curated_subsets.subsets)
    inputs = {"benchmark_sets": benchmark_sets, "base_models": models}
    inputs |= {f"vlm_{name}": tuned for name in subsets} | dict.fromkeys(POLICIES, tuned)
    out = tmp_path / "out"
    main, *others = reversed(subsets)
    pairs_wanted = [(main, other) for other in ("base", *others)]
    pairs_wanted += [("rl_policy", main), ("rl_policy", "rl_policy_rules_only")]
    models_by_name = {name: f"vlm_{name}" for name in subsets}
    metrics = run(
        inputs,
        out,
        settings,
        SilentLogger(),
        models=models_by_name,
        policies=POLICIES,
        comparisons=pairs_wanted,
    )
    results = read_table(out / "results.parquet")
    assert metrics["base/count/accuracy"] in [row["value"] for row in results]
    assert {row["model"] for row in results} == {"base", *subsets, *POLICIES}
    assert {row["task"] for row in results if row["n"] == 30} == {"all_tasks"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in results)
    pairs = {(row["model"], row["baseline"]) for row in read_table(out / "comparisons.parquet")}
    assert ("rl_policy", "rl_policy_rules_only") in pairs
    assert len(pairs) == 6
    assert len(read_table(out / "predictions.parquet")) == 7 * (2 * 30 + 6)
    strict, lenient = (metrics[f"base/all_tasks/{name}"] for name in ("accuracy", "lenient_accuracy"))
    assert strict <= lenient
    assert (out / "plots" / "accuracy.png").stat().st_size > 0


@pytest.mark.parametrize("batch_size", [1, 2, 5, 36])
def test_replies_do_not_depend_on_the_batch_size(vlm: Vlm, tasks: TaskItems, tmp_path: Path, batch_size: int) -> None:
    with KeptReplies(tmp_path / "a") as first, KeptReplies(tmp_path / "b") as second:
        four = evaluate(vlm, "base", tasks, PLAIN, 6, 4, first)
        assert evaluate(vlm, "base", tasks, PLAIN, 6, batch_size, second) == four
    assert any(outcome.prediction for outcome in four)
