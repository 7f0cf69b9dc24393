"""The reward bench: grades by hand, a naive twin of the interval, shared prefixes, and the asset on tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsqa_pipeline.benchmarks.items import TaskItems, read_items
from rsqa_pipeline.benchmarks.results import metric_infos, summarise
from rsqa_pipeline.benchmarks.reward_bench import SCORERS, outcomes_of, right_text_wins, run, score_sets
from rsqa_pipeline.benchmarks.task import load_tasks
from rsqa_pipeline.data_quality.suites import validate
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import BENCHMARK_ITEM, read_table, write_table
from rsqa_pipeline.source_pairs.from_scenes import benchmark_items
from rsqa_pipeline.tracking.run_logger import SilentLogger

TASKS = {task.name: task for task in load_tasks("scorer")}
PAIRS, FOUR_WAY = TASKS["reward_count"].metrics


class LengthScorer:
    """Scores a text by its length, and has no score for "?"; records the groups that it is given."""

    def __init__(self) -> None:
        self.groups: list[ScoringGroup] = []

    def score(self, groups: Sequence[ScoringGroup]) -> list[list[float | None]]:
        self.groups.extend(groups)
        return [[None if text == "?" else float(len(text)) for text in group.candidates] for group in groups]


def item(number: int, image: str, choices: list[str], answer: str, question: str | None = None) -> dict[str, Any]:
    names = {"item_id": f"reward_count-{number}", "task": "reward_count", "image_id": image, "image": image}
    return {**names, "question": question, "answer": answer, "choices": choices}


def scored(items: list[dict[str, Any]], scorer: LengthScorer | None = None) -> Any:
    tasks: TaskItems = [(TASKS["reward_count"], items)]
    return score_sets(tasks, {"score_model": scorer or LengthScorer(), "clip_score": LengthScorer()})


@pytest.mark.parametrize("won", [[True] * 3, [True, False, True], [False, True, False], [False] * 3])
def test_a_grade_is_the_share_of_groups_of_rivals_that_are_all_beaten(won: list[bool]) -> None:
    for metric in (PAIRS, FOUR_WAY):
        groups = list(combinations(won, metric.rivals))
        assert right_text_wins(metric, won) == pytest.approx(sum(map(all, groups)) / len(groups))


def test_grades_and_predictions_of_a_set_by_hand() -> None:
    # lengths: right 3; wrong 2, 3 (a tie is not a win) and 4
    (only,) = scored([item(0, "a", ["bb", "ccc", "eee", "dddd"], "eee")])
    grades = {(o.model, o.metric): (o.correct, o.prediction) for o in outcomes_of(only)}
    assert grades["score_model", "pairs"] == (pytest.approx(1 / 3), "dddd")
    assert grades["clip_score", "four_way"] == (0.0, "dddd")
    (best,) = scored([item(0, "a", ["b", "cc", "", "dddd"], "dddd")])
    assert {(o.correct, o.prediction) for o in outcomes_of(best)} == {(1.0, "dddd")}


def test_sets_of_one_image_and_question_share_a_group_and_their_texts() -> None:
    scorer = LengthScorer()
    right = "right text"
    items = [
        item(0, "a", [right, "x", "y", "z"], right),
        item(1, "a", ["x", right, "u", "v"], right),
        item(2, "a", ["no", "b", "c", "d"], "no", "why?"),
        item(3, "b", [right, "x", "y", "z"], right),
    ]
    sets = scored(items, scorer)
    found = [(g.image, [m["content"] for m in g.context], list(g.candidates)) for g in scorer.groups]
    assert found == [
        ("a", [], [right, "x", "y", "z", "u", "v"]),
        ("a", ["why?"], ["no", "b", "c", "d"]),
        ("b", [], [right, "x", "y", "z"]),
    ]
    assert [s.scores["score_model"] for s in sets] == [[float(len(t)) for t in i["choices"]] for i in items]


def test_the_interval_resamples_images_as_the_naive_one_does() -> None:
    rng = np.random.default_rng(4)
    images = [f"image{n // 3}" for n in range(30)]
    items = [
        item(n, image, ["a" * length for length in rng.permutation(5)[:4] + 1], "") for n, image in enumerate(images)
    ]
    for each in items:
        each["answer"] = each["choices"][0]
    outcomes = [o for s in scored(items) for o in outcomes_of(s) if (o.model, o.metric) == ("score_model", "pairs")]
    (row,) = summarise(outcomes, metric_infos([(TASKS["reward_count"], items)]), 400, 11)
    grades: dict[str, list[float]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.item_id):
        grades.setdefault(outcome.image_id, []).append(outcome.correct)
    draw = np.random.default_rng(11)
    means = []
    for _ in range(400):
        draw.integers(0, 1, 1)  # the training seed: scorers have one
        drawn = [grades[sorted(grades)[n]] for n in draw.integers(0, len(grades), len(grades))]
        means.append(np.mean([grade for of_image in drawn for grade in of_image]))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert row["n"] == 30 and row["chance"] == 0.5
    assert row["value"] == pytest.approx(np.mean([o.correct for o in outcomes]))


def test_chance_is_one_half_of_pairs_and_one_quarter_of_sets() -> None:
    infos = metric_infos([(task, []) for task in TASKS.values()])
    assert {metric: info.chance for (_, metric), info in infos.items()} == {"pairs": 0.5, "four_way": 0.25}


def test_run_writes_every_table(models: Path, score_model: Path, settings: Profile, tmp_path: Path) -> None:
    bench = tmp_path / "benchmark_sets"
    bench.mkdir()
    made = [i for i in benchmark_items(3, 7, bench, Quarantine("benchmark_sets")) if i["task"] not in ("reward_place",)]
    lost = next(i for i in made if i["task"] == "reward_class")
    lost |= {"image": str(tmp_path / "gone.png"), "image_id": "0" * 64}
    write_table(bench / "items.parquet", BENCHMARK_ITEM, made)
    inputs = {"benchmark_sets": bench, "base_models": models, "score_model": score_model}
    outs = [tmp_path / name for name in ("first", "second")]
    metrics = [run(inputs, out, settings, SilentLogger()) for out in outs]
    assert metrics[0] == metrics[1]
    assert (metrics[0]["input_rows"], metrics[0]["kept_rows"], metrics[0]["quarantined/not_scored"]) == (18, 17, 1)
    assert metrics[0]["sets/reward_place"] == 0 and metrics[0]["sets/reward_count"] == 3
    results = read_table(outs[0] / "results.parquet")
    kinds = {task.name for task, _ in read_items(bench, list(TASKS.values()))}
    assert {(r["model"], r["task"], r["metric"]) for r in results} == {
        (scorer, task, metric)
        for scorer in SCORERS
        for task in (*kinds, "all_tasks")
        for metric in ("pairs", "four_way")
    }
    assert "reward_place" not in kinds and all(r["low"] <= r["value"] <= r["high"] for r in results)
    assert metrics[0]["score_model/all_tasks/pairs"] == next(
        r["value"] for r in results if (r["model"], r["task"], r["metric"]) == ("score_model", "all_tasks", "pairs")
    )
    texts = read_table(outs[0] / "texts.parquet")
    assert len(texts) == 4 * 18 and sum(t["right"] for t in texts) == 18
    missing = [t for t in texts if t["score_model"] is None]
    assert {t["item_id"] for t in missing} == {lost["item_id"]} and len(missing) == 4
    assert {t["clip_score"] for t in missing} == {None}
    compared = {(r["model"], r["baseline"]) for r in read_table(outs[0] / "comparisons.parquet")}
    assert compared == {("score_model", "clip_score")}
    assert (outs[0] / "plots" / "accuracy.png").is_file()
    assert validate("quarantine", outs[0] / "quarantine.parquet").success
