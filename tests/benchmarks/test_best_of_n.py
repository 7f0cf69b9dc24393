"""Best of N: selection from known answers and scores, and the complete stage on untrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.best_of_n import curve_rows, items_of_tasks, run, selector_values
from rsqa_pipeline.benchmarks.captioning import rouge_l
from rsqa_pipeline.benchmarks.drawn_answers import Answers, add_scores, draw_answers
from rsqa_pipeline.benchmarks.items import read_items
from rsqa_pipeline.benchmarks.reply_format import REASONING
from rsqa_pipeline.benchmarks.selectors import SCORERS
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.models.log_probability import mean_log_probabilities
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, read_table
from rsqa_pipeline.tracking.run_logger import SilentLogger


def answers(texts: list[str | None], correct: list[float], scores: list[float | None]) -> Answers:
    context = [Message(role="user", content="How many ships are there?")]
    item = {"item_id": "count-0", "image_id": "a", "image": "images.tar#0+1"}
    found = Answers(item, "count", context, [text or "no tags" for text in texts], texts, correct)
    found.scores = {"score_model": scores, "clip_score": scores[::-1], "mean_log_probability": scores}
    found.generated = [len(reply) for reply in found.replies]
    found.read = {"score_model": [len(text or "") for text in texts], "mean_log_probability": found.generated}
    return found


def test_each_selector_on_known_answers() -> None:
    drawn = [answers(["3", "4", "three", "5"], [1.0, 0.0, 1.0, 0.0], [2.0, 1.0, 2.0, 0.0])]
    values = selector_values(drawn, [4, 1], seed=0)
    assert values["score_model", 4] == values["mean_log_probability", 4] == [1.0]
    assert values["clip_score", 4] == [0.0]  # by the reversed scores, "4" and "5" are best
    assert values["majority_vote", 4] == [1.0]  # "3" and "three" are one answer
    assert values["random", 4] == [0.5]
    assert values["oracle", 4] == [1.0]
    assert values["score_model", 1] == values["oracle", 1] == [0.5]


def test_captions_have_fractional_grades_and_no_vote() -> None:
    drawn = [answers(["a river", "a beach"], [0.3, 0.8], [2.0, 1.0]), answers(["3", "4"], [1.0, 0.0], [1.0, 2.0])]
    drawn[0].task, drawn[0].right_or_wrong = "caption", False
    values = selector_values(drawn, [1, 2], seed=0)
    assert values["oracle", 2] == [0.8, 1.0]
    assert values["score_model", 2] == [0.3, 0.0]
    assert values["majority_vote", 2] == [None, 0.5]
    assert items_of_tasks(drawn) == {"caption": [0], "count": [1], "all_tasks": [1]}
    assert items_of_tasks(drawn[:1]) == {"caption": [0]}  # there is nothing to pool
    curve = curve_rows(values, drawn, 20, 0)
    votes = {row["task"] for row in curve if row["selector"] == "majority_vote"}
    assert votes == {"count", "all_tasks"}


def test_tokens_of_a_point() -> None:
    """Generated: n times the mean. Read: equal answers once, and none of an answer that is not there."""
    drawn = [answers(["12", "12", None, "3"], [1.0, 1.0, 0.0, 0.0], [2.0, 2.0, None, 1.0])]
    curve = curve_rows(selector_values(drawn, [1, 4], seed=0), drawn, 20, 0)
    found = {(row["selector"], row["n"]): (row["tokens"], row["selector_tokens"]) for row in curve}
    mean = np.mean([2, 2, len("no tags"), 1])
    assert found["score_model", 1] == pytest.approx((mean, 5 / 4))
    assert found["score_model", 4] == pytest.approx((4 * mean, 3.0))
    assert found["mean_log_probability", 4] == pytest.approx((4 * mean, 3.0 + len("no tags")))
    assert found["majority_vote", 4] == pytest.approx((4 * mean, 0.0))


def test_duplicate_answers_are_scored_once() -> None:
    scored_groups: list[ScoringGroup] = []

    def rate(groups: Any) -> list[list[Score]]:
        scored_groups.extend(groups)
        return [[Score(float(len(text)) or None, tokens=len(text)) for text in group.candidates] for group in groups]

    drawn = [answers(["3", "", "3", None, "12"], [1.0, 0.0, 1.0, 0.0, 0.0], [])]
    add_scores(drawn, "score_model", rate)
    assert list(scored_groups[0].candidates) == ["3", "", "12"]
    assert drawn[0].scores["score_model"] == [1.0, None, 1.0, None, 2.0]
    assert drawn[0].read["score_model"] == [1, 0, 1, 0, 2]


def stage_inputs(models: Path, benchmark_sets: Path, score_model: Path, tmp_path: Path) -> dict[str, Path]:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "model").symlink_to(models / "vlm")
    return {"benchmark_sets": benchmark_sets, "base_models": models, "score_model": score_model, "vlm": tuned}


def test_run_writes_every_table(
    models: Path, benchmark_sets: Path, score_model: Path, settings: Profile, tmp_path: Path
) -> None:
    inputs = stage_inputs(models, benchmark_sets, score_model, tmp_path)
    outs = [tmp_path / "first", tmp_path / "second"]
    metrics = [run(inputs, out, settings, SilentLogger(), vlm="vlm", policy=False) for out in outs]
    assert metrics[0] == metrics[1]
    curve = read_table(outs[0] / "curve.parquet")
    assert len(curve) == 6 * 3 * 6 - 3  # selectors, counts, five tasks and all of them; no vote on captions
    assert {row["items"] for row in curve} == {4, 16}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in curve)
    first = {row["selector"]: row["value"] for row in curve if row["n"] == 1 and row["task"] == "all_tasks"}
    assert max(first.values()) - min(first.values()) < 1e-9  # one answer leaves no choice
    assert {row["gap_share"] for row in curve if row["n"] == 1} == {None}
    shares = [row for row in curve if row["gap_share"] is not None]
    assert shares and all(row["gap_low"] <= row["gap_share"] <= row["gap_high"] <= 1 + 1e-9 for row in shares)
    tokens = {(row["task"], row["n"]): row["tokens"] for row in curve if row["selector"] == "random"}
    assert tokens["count", 4] == pytest.approx(4 * tokens["count", 1])
    assert 1 <= tokens["count", 1] <= 6 and 6 < tokens["caption", 1] <= 18  # captions may be three times as long
    assert all((row["selector_tokens"] > 0) == (row["selector"] in SCORERS) for row in curve)
    changes = read_table(outs[0] / "changes.parquet")
    assert len(changes) == 5 * 3 * 6 - 3  # selectors but random, pairs of counts, tasks; no vote on captions
    candidates = read_table(outs[0] / "candidates.parquet")
    assert len(candidates) == 20 * 4
    assert all(row["vlm_version"] and row["score_model_version"] and row["clip_version"] for row in candidates)
    assert all(row["mean_log_probability"] < 0 and row["reply"] == row["text"] for row in candidates)
    assert len(read_table(outs[0] / "comparisons.parquet")) == 4 * 6 - 1
    for name in ("curve.parquet", "changes.parquet", "candidates.parquet", "plots/best_of_n.png"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_captions_are_graded_as_in_the_captioning_benchmark(
    models: Path, benchmark_sets: Path, score_model: Path, settings: Profile, tmp_path: Path
) -> None:
    inputs = stage_inputs(models, benchmark_sets, score_model, tmp_path)
    run(inputs, tmp_path / "out", settings, SilentLogger(), vlm="vlm", policy=False)
    items = {row["item_id"]: row for row in read_table(benchmark_sets / "items.parquet")}
    rows = [row for row in read_table(tmp_path / "out/candidates.parquet") if row["task"] == "caption"]
    assert [row["correct"] for row in rows] == [rouge_l(row["text"], items[row["item_id"]]["captions"]) for row in rows]
    best = np.mean(
        [max(row["correct"] for row in rows if row["item_id"] == item) for item in {r["item_id"] for r in rows}]
    )
    curve = read_table(tmp_path / "out/curve.parquet")
    (oracle,) = (r for r in curve if (r["selector"], r["task"], r["n"]) == ("oracle", "caption", 4))
    assert oracle["value"] == pytest.approx(best)


def test_log_probabilities_are_of_the_whole_reply_to_the_prompt_that_was_asked(
    models: Path, benchmark_sets: Path, settings: Profile
) -> None:
    vlm = load_vlm(models / "vlm", settings.compute)
    tasks = read_items(benchmark_sets, [task for task in load_tasks("vlm") if task.name == "count"])
    replies = iter(["<think>i count.</think><answer>3</answer>", "3", "<think>x</think><answer>3</answer>", ""] * 6)

    def ask(*arguments: Any) -> list[list[str]]:
        return [[next(replies) for _ in range(4)] for _ in arguments[1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsqa_pipeline.benchmarks.drawn_answers.ask", ask)
        drawn = draw_answers(vlm, tasks, REASONING, settings)
    one = drawn[0]
    assert one.texts == ["3", None, "3", None]  # a reply without tags holds no answer
    assert one.scores["mean_log_probability"][1] is None and one.scores["mean_log_probability"][3] is None
    prompt = REASONING.prompt(one.context)
    expected = mean_log_probabilities(vlm, [ScoringGroup(one.item["image"], prompt, [one.replies[0]])], 1)[0][0]
    assert one.scores["mean_log_probability"][0] == pytest.approx(expected.value, abs=2e-5)
    assert one.scores["mean_log_probability"][0] != one.scores["mean_log_probability"][2]  # the thoughts count, too
    assert one.correct[1] == one.correct[3] == 0.0
    assert one.generated[3] == 1  # the end alone
