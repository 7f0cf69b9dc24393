"""The report's opening: the argument in words that follow from the figures, and the figures themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rsqa_pipeline.report import downstream, preferences
from rsqa_pipeline.report.blocks import UNKNOWN, Cell, Section, Tile, Tiles, Words, interval, number, percent
from rsqa_pipeline.report.curation import fault_shares, true_quality
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.stages import SUBSETS
from rsqa_pipeline.statistics import Interval

BASELINES = ("all", "random_30", "clip_score_30")


@dataclass(frozen=True)
class Kept:
    """How good the captions of each subset are, None where it is not known."""

    true_quality: Mapping[str, Interval | None]
    """Mean, 1 to 5."""
    faulty: Mapping[str, Interval | None]
    """Share with a recorded fault, 0 to 1."""

    @property
    def recorded_faults(self) -> bool:
        """Were faults put in on purpose? Then their share says more than a mark by the kind of fault."""
        return any(share is not None for share in self.faulty.values())


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, seed: int) -> Section:
    """One paragraph and six tiles.

    Args:
        frame: the corpus, as `reading.corpus` gives it.
    """
    found = read_json(inputs["score_model_report"] / "accuracy.json")
    accuracy = {s: preferences.accuracy(found, s, preferences.EVERY, "judge") for s in preferences.SELECTORS}
    kept = Kept(
        {subset: true_quality(frame, subset, "caption", seed) for subset in SUBSETS}, fault_shares(inputs, frame)
    )
    tallies = {baseline: _tally(inputs, baseline) for baseline in BASELINES}
    tiles = [
        _accuracy_tile(accuracy),
        _quality_tile(kept),
        _downstream_tile(inputs, "clip", ("classification", "top_1"), "CLIP fine-tuned on it: zero-shot top-1, %"),
        _downstream_tile(
            inputs, "vlm", (downstream.POOLED, "accuracy"), "VLM fine-tuned on it: questions answered right, %"
        ),
        _best_of_n_tile(inputs["best_of_n_benchmark"]),
        _reward_tile(inputs),
    ]
    argument = " ".join([_preferring(accuracy), _keeping(kept), _training(tallies)])
    return Section("headline", "In short", [Words(argument), Tiles(tiles)])


def _tally(inputs: Mapping[str, Path], baseline: str) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    for family in downstream.TITLES:
        verdicts += downstream.tally(family, rows(inputs[f"{family}_benchmark"] / "comparisons.parquet"), baseline)
    return verdicts


def _preferring(accuracy: Mapping[str, Interval | None]) -> str:
    return (
        "A score model is learned from pairs of a better and a worse text about an image. On pairs it never saw it "
        f"prefers the one that the judge prefers in {_spelled(accuracy['score_model'])} of cases; CLIP score does in "
        f"{_spelled(accuracy['clip_score'])}, chance in 50 %."
    )


def _keeping(kept: Kept) -> str:
    said = "It then ranks the whole corpus and its best part is kept."
    if kept.recorded_faults:
        value = {subset: _spelled(share) for subset, share in kept.faulty.items()}
        return (
            f"{said} Of its captions, {value['score_model_30']} carry a fault that was put in on purpose; of CLIP "
            f"score's, {value['clip_score_30']}; of a random part of the same size, {value['random_30']}."
        )
    if any(mean is None for mean in kept.true_quality.values()):
        return f"{said} How good that part truly is, is not known here."
    value = {subset: f"{mean.value:.2f}" for subset, mean in kept.true_quality.items() if mean is not None}
    return (
        f"{said} The mean true quality of its captions is {value['score_model_30']} of 5, of CLIP score's "
        f"{value['clip_score_30']}, of a random part of the same size {value['random_30']}."
    )


def _training(tallies: Mapping[str, Counter[str]]) -> str:
    parts = [
        f"against {name_of(baseline)}, {tally['better']} better, {tally['worse']} worse and "
        f"{tally['not told apart']} not told apart"
        for baseline, tally in tallies.items()
    ]
    total = tallies["all"].total()
    return (
        f"A CLIP and a VLM fine-tuned on that part are compared with others on {total} benchmark figures, by paired "
        f"95 % intervals: {'; '.join(parts)}."
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


def _quality_tile(kept: Kept) -> Tile:
    if kept.recorded_faults:
        label = "captions kept that carry a fault put in on purpose, %"
        cells = {subset: percent(share, f"headline/faulty/{subset}") for subset, share in kept.faulty.items()}
    else:
        label = "true quality of the captions kept, 1 to 5"
        cells = {subset: number(mean, f"headline/quality/{subset}") for subset, mean in kept.true_quality.items()}
    return Tile(label, cells[downstream.CURATED], [(name_of(subset), cells[subset]) for subset in BASELINES])


def _downstream_tile(inputs: Mapping[str, Path], family: str, place: downstream.Place, label: str) -> Tile:
    results = rows(inputs[f"{family}_benchmark"] / "results.parquet")
    found = {row["model"]: row for row in results if (row["task"], row["metric"]) == place}
    cells = {
        model: percent(interval(found[model]) if model in found else None, f"headline/{family}/{model}")
        for model in (downstream.CURATED, *BASELINES)
    }
    chance = next((row["chance"] for row in found.values()), None)
    details = [(name_of(model), cells[model]) for model in BASELINES]
    return Tile(label, cells[downstream.CURATED], [*details, ("chance", percent(_exactly(chance)))])


def _best_of_n_tile(folder: Path) -> Tile:
    curve = [row for row in rows(folder / "curve.parquet") if row["task"] == downstream.POOLED]
    most = max((row["n"] for row in curve), default=0)
    found = {row["selector"]: interval(row) for row in curve if row["n"] == most}
    return Tile(
        f"best of {most} by the score model: right, %",
        percent(found.get("score_model"), "headline/best_of_n/score_model"),
        [
            (name_of(selector), percent(found.get(selector), f"headline/best_of_n/{selector}"))
            for selector in ("majority_vote", "clip_score", "random", "oracle")
        ],
    )


def _reward_tile(inputs: Mapping[str, Path]) -> Tile:
    whole, rules = (read_json(inputs[name] / "rewards.json") for name in ("rl_policy", "rl_policy_rules_only"))
    return Tile(
        "GRPO: change of the held-out reward, 0 to 1",
        number(interval(whole["difference"]), "headline/reward/rl_policy", 3, signed=True),
        [
            ("before", number(interval(whole["before"]), "headline/reward/before", 3)),
            ("after", number(interval(whole["after"]), "headline/reward/after", 3)),
            ("change, rules only", number(interval(rules["difference"]), "headline/reward/rules_only", 3, signed=True)),
        ],
    )


def _exactly(value: float | None) -> Interval | None:
    """A figure that is known without error."""
    return None if value is None else Interval(value, value, value, 0)
