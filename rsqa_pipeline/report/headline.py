"""The report's first section: a summary derived from the results, and the main results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rsqa_pipeline.compared import POLICIES, Compared
from rsqa_pipeline.report import downstream, preferences
from rsqa_pipeline.report.blocks import (
    Cell,
    Paragraph,
    ReportSection,
    Table,
    Tile,
    Tiles,
    interval,
    number,
    percent,
    text_cell,
)
from rsqa_pipeline.report.curation import fault_shares, true_quality
from rsqa_pipeline.report.reading import name_of, read_json, rows
from rsqa_pipeline.statistics import Interval

MAIN_RESULTS: tuple[tuple[str, downstream.MetricKey, str], ...] = (
    ("clip", (downstream.POOLED, "rank_1"), "CLIP, top-1 and R@1"),
    ("clip", ("classification", "top_1"), "CLIP, zero-shot top-1"),
    ("clip", ("retrieval", "image_to_text_r1"), "CLIP, image to text R@1"),
    ("clip", ("retrieval", "text_to_image_r1"), "CLIP, text to image R@1"),
    ("vlm", (downstream.POOLED, "accuracy"), "VLM, all questions"),
)
"""(family, metric, name) of the rows of the first table."""


@dataclass(frozen=True)
class KeptQuality:
    """Quality of the captions of each subset; None if it is not known."""

    true_quality: Mapping[str, Interval | None]
    """Mean, 1 to 5."""
    faulty: Mapping[str, Interval | None]
    """Share with a recorded fault, 0 to 1."""

    @property
    def recorded_faults(self) -> bool:
        """Whether faults were inserted on purpose. If so, their share is more informative than the true quality."""
        return any(share is not None for share in self.faulty.values())


def section(inputs: Mapping[str, Path], frame: pd.DataFrame, compared: Compared, seed: int) -> ReportSection:
    """The verdict, the effect of RL, the main results beside the untuned base, four tiles, and the argument.

    Args:
        frame: the corpus, from `reading.corpus`.
    """
    found = read_json(inputs["score_model_report"] / "accuracy.json")
    accuracy = {s: preferences.accuracy(found, s, preferences.ALL_FAMILIES, "judge") for s in preferences.SELECTORS}
    kept = KeptQuality(
        {subset: true_quality(frame, subset, "caption", seed) for subset in compared.subsets},
        fault_shares(inputs, frame, compared),
    )
    main = compared.main
    tallies = {baseline: _tally(inputs, main, baseline) for baseline in ("base", *compared.baselines)}
    tiles = [
        _accuracy_tile(accuracy),
        _quality_tile(kept, compared),
        _best_of_n_tile(inputs["best_of_n_benchmark"]),
        _reward_tile(inputs),
    ]
    argument = " ".join([_accuracy_text(accuracy), _quality_text(kept, compared), _comparison_text(tallies, compared)])
    return ReportSection(
        "headline",
        "Summary",
        [
            Paragraph(_verdict(tallies["base"], compared), verdict=True),
            Paragraph(_policy_text(inputs, compared)),
            results_table(inputs, compared),
            Tiles(tiles),
            Paragraph(argument),
        ],
    )


def results_table(inputs: Mapping[str, Path], compared: Compared) -> Table:
    """One row per main result; the main subset's model first, the untuned base beside it, then RL and the others."""
    models = [compared.main, "base", *reversed(POLICIES), *compared.baselines]
    table = []
    for family, metric_key, label in MAIN_RESULTS:
        folder = inputs[f"{family}_benchmark"]
        results, comparisons = rows(folder / "results.parquet"), rows(folder / "comparisons.parquet")
        cells = [
            downstream.result_cell(family, compared, model, metric_key, results, comparisons, "headline/")
            if family == "vlm" or model not in POLICIES
            else Cell("–")
            for model in models
        ]
        table.append([text_cell(label), *cells, downstream.chance_cell(results, metric_key)])
    return Table(
        "Main results, %",
        ["", *(compared.label(model) for model in models), "chance"],
        table,
        note=f"★ ▲ ▼ ≈: by the paired interval against {compared.label(compared.main)}; no mark: not compared with it. "
        "RL trains the VLM only.",
    )


def _tally(inputs: Mapping[str, Path], model: str, baseline: str) -> Counter[str]:
    """Verdicts on ``model`` against ``baseline`` over both families' metrics."""
    verdicts: Counter[str] = Counter()
    for family in downstream.TITLES:
        found = rows(inputs[f"{family}_benchmark"] / "comparisons.parquet")
        verdicts += downstream.tally(family, found, model, baseline)
    return verdicts


def _policy_text(inputs: Mapping[str, Path], compared: Compared) -> str:
    """What RL changed: the held-out reward, and the benchmarks against the main subset's model and without scores."""
    change = interval(read_json(inputs["rl_policy"] / "rewards.json")["difference"])
    said = "is not known"
    if change is not None:
        bounds = f"{change.low:+.3f} to {change.high:+.3f}"
        clear = "" if change.low > 0 or change.high < 0 else ", no clear difference"
        said = f"changes by {change.value:+.3f} ({bounds}){clear}".replace("-", "−")
    parts = [
        _said_of(compared.label(baseline), _tally(inputs, "rl_policy", baseline))
        for baseline in (compared.main, "rl_policy_rules_only")
    ]
    return f"RL with the score model as reward: the held-out reward {said}. On the VLM benchmarks: {'; '.join(parts)}."


def _said_of(baseline: str, tally: Counter[str]) -> str:
    """The verdicts against one baseline; says so where nothing was compared."""
    if not tally.total():
        return f"not compared with {baseline}"
    return (
        f"against {baseline}, {tally['better']} better, {tally['worse']} worse and "
        f"{tally['no clear difference']} without a clear difference"
    )


def _verdict(against_base: Counter[str], compared: Compared) -> str:
    """Whether fine-tuning on the main subset pays, by the paired comparisons with the untuned base."""
    total, better, worse = against_base.total(), against_base["better"], against_base["worse"]
    subset = compared.label(compared.main)
    if not total:
        return f"Verdict: models fine-tuned on the subset of {subset} were not compared with the untuned base."
    if better and worse:
        outcome = "a mixed result"
    else:
        outcome = "it pays" if better else "it does not pay" if worse else "no gain is shown"
    return (
        f"Verdict: against the untuned base, fine-tuning on the subset of {subset} is better on {better} of {total} "
        f"benchmark metrics and worse on {worse}, by paired 95 % intervals: {outcome} on this corpus."
    )


def _accuracy_text(accuracy: Mapping[str, Interval | None]) -> str:
    return (
        "A score model is trained on pairs of a better and a worse text about an image. On held-out pairs it prefers "
        f"the text that the judge prefers in {_format_share(accuracy['score_model'])} of cases; CLIP score does so in "
        f"{_format_share(accuracy['clip_score'])}, chance in 50 %."
    )


def _quality_text(kept: KeptQuality, compared: Compared) -> str:
    opening = "It then ranks the whole corpus, and the top part is kept."
    values = kept.faulty if kept.recorded_faults else kept.true_quality
    if any(value is None for value in values.values()):
        return f"{opening} The true quality of that part is not known."
    if kept.recorded_faults:
        said = {name: _format_share(share) for name, share in values.items()}
        what = f"Of its captions, {said[compared.main]} contain a fault that was inserted on purpose"
    else:
        said = {name: f"{mean.value:.2f}" for name, mean in values.items() if mean is not None}
        what = f"The mean true quality of its captions is {said[compared.main]} of 5"
    others = ", ".join(f"{compared.label(name)} {said[name]}" for name in compared.baselines)
    return f"{opening} {what} ({others})."


def _comparison_text(tallies: Mapping[str, Counter[str]], compared: Compared) -> str:
    parts = [_said_of(compared.label(baseline), tally) for baseline, tally in tallies.items()]
    total = max(tally.total() for tally in tallies.values())
    return (
        f"A CLIP and a VLM fine-tuned on that part are compared with others on up to {total} benchmark metrics by "
        f"paired 95 % intervals: {'; '.join(parts)}."
    )


def _format_share(figure: Interval | None) -> str:
    if figure is None:
        return "an unknown share"
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


def _quality_tile(kept: KeptQuality, compared: Compared) -> Tile:
    if kept.recorded_faults:
        label = "kept captions with a fault inserted on purpose, %"
        cells = {subset: percent(share, f"headline/faulty/{subset}") for subset, share in kept.faulty.items()}
    else:
        label = "true quality of the kept captions, 1 to 5"
        cells = {subset: number(mean, f"headline/quality/{subset}") for subset, mean in kept.true_quality.items()}
    return Tile(label, cells[compared.main], [(compared.label(subset), cells[subset]) for subset in compared.baselines])


def _best_of_n_tile(folder: Path) -> Tile:
    curve = [row for row in rows(folder / "curve.parquet") if row["task"] == downstream.POOLED]
    max_n = max((row["n"] for row in curve), default=0)
    found = {row["selector"]: interval(row) for row in curve if row["n"] == max_n}
    return Tile(
        f"best of {max_n} by the score model: accuracy, %",
        percent(found.get("score_model"), "headline/best_of_n/score_model"),
        [
            (name_of(selector), percent(found.get(selector), f"headline/best_of_n/{selector}"))
            for selector in ("mean_log_probability", "majority_vote", "clip_score", "random", "oracle")
        ],
    )


def _reward_tile(inputs: Mapping[str, Path]) -> Tile:
    whole, rules = (read_json(inputs[name] / "rewards.json") for name in ("rl_policy", "rl_policy_rules_only"))
    return Tile(
        "GRPO: change of the held-out reward (0 to 1)",
        number(interval(whole["difference"]), "headline/reward/rl_policy", 3, signed=True),
        [
            ("before", number(interval(whole["before"]), "headline/reward/before", 3)),
            ("after", number(interval(whole["after"]), "headline/reward/after", 3)),
            ("change, rules only", number(interval(rules["difference"]), "headline/reward/rules_only", 3, signed=True)),
        ],
    )
