"""The report's opening: the argument in words that follow from the figures, and the figures themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from rsqa_pipeline.report import downstream, preferences
from rsqa_pipeline.report.blocks import UNKNOWN, Cell, Section, Tile, Tiles, Words, interval, number, percent
from rsqa_pipeline.report.curation import true_quality
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.stages import SUBSETS
from rsqa_pipeline.statistics import Interval

BASELINES = ("all", "random_30", "clip_score_30")


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, seed: int) -> Section:
    """One paragraph and five tiles."""
    found = read_json(inputs["score_model_report"] / "accuracy.json")
    accuracy = {s: preferences.accuracy(found, s, preferences.EVERY, "judge") for s in preferences.SELECTORS}
    quality = {subset: true_quality(frame, subset, "caption", seed) for subset in SUBSETS}
    comparisons = [
        row
        for family in downstream.TITLES
        for row in rows(inputs[f"{family}_benchmark"] / "comparisons.parquet")
    ]
    tallies = {baseline: downstream.tally(comparisons, baseline) for baseline in BASELINES}
    return Section(
        "headline",
        "In short",
        [
            Words(" ".join([_preferring(accuracy), _keeping(quality), _training(tallies)])),
            Tiles(
                [
                    _accuracy_tile(accuracy),
                    _quality_tile(quality),
                    _downstream_tile(tallies),
                    _best_of_n_tile(inputs["best_of_n_benchmark"]),
                    _reward_tile(inputs),
                ]
            ),
        ],
    )


def _preferring(accuracy: Mapping[str, Interval | None]) -> str:
    return (
        "A score model is learned from pairs of a better and a worse text about an image. On pairs it never saw it prefers "
        f"the one that the judge prefers in {_spelled(accuracy['score_model'])} of cases; CLIP score does in "
        f"{_spelled(accuracy['clip_score'])}, chance in 50 %."
    )


def _keeping(quality: Mapping[str, Interval | None]) -> str:
    kept, chance, clip = (quality[subset] for subset in ("score_model_30", "random_30", "clip_score_30"))
    if kept is None or chance is None or clip is None:
        return "It then ranks the whole corpus and its best part is kept; how good that part truly is, is not known here."
    return (
        f"It then ranks the whole corpus. The captions that it keeps have a mean true quality of {kept.value:.2f} of 5, "
        f"those of CLIP score {clip.value:.2f}, a random part of the same size {chance.value:.2f}."
    )


def _training(tallies: Mapping[str, Mapping[str, int]]) -> str:
    parts = [
        f"against {name_of(baseline)} better on {tally['better']}, worse on {tally['worse']}, "
        f"not told apart on {tally['not told apart']}"
        for baseline, tally in tallies.items()
    ]
    total = sum(tallies["all"].values())
    return (
        f"Models fine-tuned on that part are compared on {total} benchmark figures with paired 95 % intervals: "
        + "; ".join(parts)
        + "."
    )


def _spelled(figure: Interval | None) -> str:
    if figure is None:
        return f"a share that is {UNKNOWN}"
    return f"{100 * figure.value:.1f} % ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def _accuracy_tile(accuracy: Mapping[str, Interval | None]) -> Tile:
    return Tile(
        "held-out preference accuracy, %",
        percent(accuracy["score_model"], "headline/preference/score_model"),
        [
            ("CLIP score", percent(accuracy["clip_score"], "headline/preference/clip_score")),
            ("chance", Cell("50.0")),
        ],
    )


def _quality_tile(quality: Mapping[str, Interval | None]) -> Tile:
    return Tile(
        "true quality of the captions kept, 1 to 5",
        number(quality["score_model_30"], "headline/quality/score_model_30"),
        [(name_of(subset), number(quality[subset], f"headline/quality/{subset}")) for subset in BASELINES],
    )


def _downstream_tile(tallies: Mapping[str, Mapping[str, int]]) -> Tile:
    total = sum(tallies["random_30"].values())
    return Tile(
        f"of {total} benchmark figures better than with random 30 %",
        Cell(str(tallies["random_30"]["better"]), key="headline/downstream/random_30"),
        [
            (f"{name_of(baseline)}: better, worse, equal", Cell(" · ".join(str(n) for n in tally.values())))
            for baseline, tally in tallies.items()
        ],
    )


def _best_of_n_tile(folder: Path) -> Tile:
    curve = rows(folder / "curve.parquet")
    tasks = sorted({row["task"] for row in curve})
    task = "all" if "all" in tasks or not tasks else tasks[0]
    most = max((row["n"] for row in curve), default=0)
    found = {row["selector"]: interval(row) for row in curve if row["n"] == most and row["task"] == task}
    where = "" if task == "all" else f" ({name_of(task)})"
    return Tile(
        f"right with the best of {most}, %{where}",
        percent(found.get("score_model"), "headline/best_of_n/score_model"),
        [
            (name_of(s), percent(found.get(s), f"headline/best_of_n/{s}"))
            for s in ("majority_vote", "random", "oracle")
        ],
    )


def _reward_tile(inputs: Mapping[str, Path]) -> Tile:
    whole, rules = (
        read_json(inputs[name] / "rewards.json") for name in ("rl_policy", "rl_policy_rules_only")
    )
    return Tile(
        "change of held-out reward by GRPO",
        number(interval(whole["difference"]), "headline/reward/rl_policy", 3, signed=True),
        [
            ("before", number(interval(whole["before"]), digits=3)),
            ("after", number(interval(whole["after"]), digits=3)),
            ("change, rules only", number(interval(rules["difference"]), digits=3, signed=True)),
        ],
    )
