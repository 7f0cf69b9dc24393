"""Best of N: selection from known answers and scores, and the complete stage on untrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsqa_pipeline.benchmarks.best_of_n import Answers, add_scores, run, selector_values
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.records import Message, read_table
from rsqa_pipeline.tracking.run_logger import SilentLogger


def answers(texts: list[str], correct: list[float], scores: list[float | None]) -> Answers:
    context = [Message(role="user", content="How many ships are there?")]
    item = {"item_id": "count-0", "image_id": "a", "image": "images.tar#0+1"}
    return Answers(item, "count", context, texts, correct, {"score_model": scores, "clip_score": scores[::-1]})


def test_each_selector_on_known_answers() -> None:
    drawn = [answers(["3", "4", "three", "5"], [1.0, 0.0, 1.0, 0.0], [2.0, 1.0, 2.0, 0.0])]
    values = selector_values(drawn, [4, 1], seed=0)
    assert values["score_model", 4] == [1.0]
    assert values["clip_score", 4] == [0.0]  # by the reversed scores, "4" and "5" are best
    assert values["majority_vote", 4] == [1.0]  # "3" and "three" are one answer
    assert values["random", 4] == [0.5]
    assert values["oracle", 4] == [1.0]
    assert values["score_model", 1] == values["oracle", 1] == [0.5]


def test_duplicate_answers_are_scored_once() -> None:
    scored_groups: list[ScoringGroup] = []

    class RecordingScorer:
        def score(self, groups: list[ScoringGroup]) -> list[list[float | None]]:
            scored_groups.extend(groups)
            return [[float(len(text)) or None for text in group.candidates] for group in groups]

    drawn = [answers(["3", "", "3", "12"], [1.0, 0.0, 1.0, 0.0], [])]
    add_scores(drawn, "score_model", RecordingScorer().score)
    assert list(scored_groups[0].candidates) == ["3", "", "12"]
    assert drawn[0].scores["score_model"] == [1.0, None, 1.0, 2.0]


def test_run_writes_every_table(
    models: Path, benchmark_sets: Path, score_model: Path, settings: Profile, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "model").symlink_to(models / "vlm")
    inputs: dict[str, Any] = {"benchmark_sets": benchmark_sets, "base_models": models, "score_model": score_model}
    inputs["vlm_score_model_p30s60"] = tuned
    outs = [tmp_path / "first", tmp_path / "second"]
    metrics = [run(inputs, out, settings, SilentLogger(), vlm="vlm_score_model_p30s60") for out in outs]
    assert metrics[0] == metrics[1]
    curve = read_table(outs[0] / "curve.parquet")
    assert len(curve) == 5 * 3 * 5  # selectors, counts, four tasks and all of them
    assert {row["items"] for row in curve} == {4, 16}
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in curve)
    first = {row["selector"]: row["value"] for row in curve if row["n"] == 1 and row["task"] == "all_tasks"}
    assert max(first.values()) - min(first.values()) < 1e-9  # one answer leaves no choice
    assert {row["gap_share"] for row in curve if row["n"] == 1} == {None}
    changes = read_table(outs[0] / "changes.parquet")
    assert len(changes) == 4 * 3 * 5  # selectors but random, pairs of counts, tasks
    candidates = read_table(outs[0] / "candidates.parquet")
    assert len(candidates) == 16 * 4
    assert all(row["score_model_version"] and row["clip_version"] for row in candidates)
    assert len(read_table(outs[0] / "comparisons.parquet")) == 3 * 5
    for name in ("curve.parquet", "changes.parquet", "candidates.parquet", "plots/best_of_n.png"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
