"""The report's section on fine-tuned models: the paper's tables with ours beside, and the paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline import plots
from rsqa_pipeline.report.blocks import UNKNOWN, Block, Cell, Fold, Section, Table, interval, percent, words
from rsqa_pipeline.report.reading import name_of, rows
from rsqa_pipeline.stages import SUBSETS

Rows = list[dict[str, Any]]
Place = tuple[str, str]
"""(task, metric) of a benchmark figure."""

CURATED = "score_model_30"
RIVALS = ("base", *(subset for subset in SUBSETS if subset != CURATED))
MODELS = ("base", *SUBSETS, "rl_policy_rules_only", "rl_policy")
TITLES = {"clip": "CLIP", "vlm": "Vision-language model"}


def paper_figures() -> dict[str, Any]:
    """The paper's figures, from ``paper_figures.yaml`` beside this file."""
    figures: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_name("paper_figures.yaml").read_text(encoding="utf-8")
    )
    return figures


def section(inputs: Mapping[str, Path]) -> Section:
    """For CLIP and VLM: our figures beside the paper's, every figure of ours, and the paired comparisons."""
    blocks: list[Block | Fold] = []
    for family, title in TITLES.items():
        folder = inputs[f"{family}_benchmark"]
        results, comparisons = rows(folder / "results.parquet"), rows(folder / "comparisons.parquet")
        blocks += [
            beside_paper(family, results, comparisons),
            Fold(f"{title}: every figure", [all_figures(family, results, comparisons)]),
            Fold(f"{title}: paired comparisons", [comparison_table(family, comparisons)]),
        ]
    return Section(
        "downstream",
        "Models fine-tuned on each subset",
        blocks,
        lead="Ours with the 95 % interval below; the paper's figures are of other models on other data, so only the order "
        "of the rows compares, not the height. ▲ and ▼: above or below the score-model row, where the paired interval "
        "excludes 0. ★: the score-model row is above every other subset and the start that way. No mark: not told apart.",
    )


def verdict(row: Mapping[str, Any]) -> str:
    """What a paired comparison says: "better", "worse", or "not told apart" where its interval holds 0 or is missing."""
    low, high = row["low"], row["high"]
    if low is None or high is None or low <= 0 <= high:
        return "not told apart"
    return "better" if low > 0 else "worse"


def beside_paper(family: str, results: Rows, comparisons: Rows) -> Table:
    """The paper's table with ours beside each of its columns."""
    paper = paper_figures()[family]
    groups = [
        ([(ours["task"], ours["metric"]) for ours in group["ours"]], group) for group in paper["groups"]
    ]
    table = []
    for model in (model for model in MODELS if _of_model(results, model)):
        row = [_name(model)]
        theirs = paper["rows"].get(model, [None] * len(groups))
        for (places, _), figure in zip(groups, theirs, strict=True):
            row += [_figure(family, model, place, results, comparisons) for place in places]
            row.append(Cell("–" if figure is None else f"{figure:.2f}", paper=True))
        table.append(row)
    chance = [words("chance")]
    header = ["fine-tuned on"]
    for places, group in groups:
        chance += [*(_chance(results, place) for place in places), Cell("–", paper=True)]
        header += [*(_heading(place) for place in places), f"paper: {group['paper']}"]
    return Table(
        f"{TITLES[family]}: ours and the paper's, %",
        header,
        [*table, chance],
        [("", 1), *((group["title"], len(places) + 1) for places, group in groups)],
    )


def all_figures(family: str, results: Rows, comparisons: Rows) -> Table:
    """One row a model, one column a task and metric."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    places = sorted(
        dict.fromkeys((r["task"], r["metric"]) for r in results), key=lambda place: tasks.index(place[0])
    )
    table = [
        [_name(model), *(_figure(family, model, place, results, comparisons, "all/") for place in places)]
        for model in MODELS
        if _of_model(results, model)
    ]
    table.append([words("chance"), *(_chance(results, place) for place in places)])
    groups = [("", 1), *((name_of(task), sum(place[0] == task for place in places)) for task in tasks)]
    return Table(
        f"{TITLES[family]}: every figure, %",
        ["fine-tuned on", *(name_of(m) for _, m in places)],
        table,
        groups,
    )


def comparison_table(family: str, comparisons: Rows) -> Table:
    """Paired differences over the same items."""
    table = [
        [
            words(f"{name_of(row['task'])}, {name_of(row['metric'])}"),
            _name(row["model"]),
            _name(row["baseline"]),
            percent(interval(row), key=_key("difference", family, row), signed=True),
            words(
                UNKNOWN
                if row["p_value"] is None
                else f"{row['p_value']:.3f}"
                if row["p_value"] >= 0.001
                else "< 0.001"
            ),
            words(verdict(row)),
        ]
        for row in comparisons
    ]
    return Table(
        f"{TITLES[family]}: paired differences, percentage points",
        ["benchmark", "model", "against", "difference", "p", "model is"],
        table,
        note="Bootstrap over the same test items. The p values are not corrected for the number of comparisons.",
    )


def tally(comparisons: Sequence[Mapping[str, Any]], baseline: str) -> dict[str, int]:
    """How often the score-model subset's model is better, worse or not told apart from ``baseline``'s."""
    verdicts = [verdict(row) for row in comparisons if (row["model"], row["baseline"]) == (CURATED, baseline)]
    return {kind: verdicts.count(kind) for kind in ("better", "worse", "not told apart")}


def _of_model(results: Rows, model: str) -> Rows:
    return [row for row in results if row["model"] == model]


def _name(model: str) -> Cell:
    return words(name_of(model), tint=plots.colour(model))


def _figure(family: str, model: str, place: Place, results: Rows, comparisons: Rows, part: str = "") -> Cell:
    found = next((r for r in results if (r["model"], r["task"], r["metric"]) == (model, *place)), None)
    here = {
        row["baseline"]: verdict(row)
        for row in comparisons
        if row["model"] == CURATED and (row["task"], row["metric"]) == place
    }
    mark = {"better": "▼", "worse": "▲"}.get(here.get(model, ""), "")
    best = model == CURATED and all(here.get(rival) == "better" for rival in RIVALS)
    key = f"{part}{family}/{model}/{place[0]}/{place[1]}"
    return percent(interval(found) if found else None, key=key, note="★" if best else mark, strong=best)


def _chance(results: Rows, place: Place) -> Cell:
    found = (
        row["chance"]
        for row in results
        if (row["task"], row["metric"]) == place and row["chance"] is not None
    )
    chance = next(found, None)
    return (
        words(UNKNOWN) if chance is None else Cell(f"{100 * chance:.1f}", key=f"chance/{place[0]}/{place[1]}")
    )


def _heading(place: Place) -> str:
    return name_of(place[0]) if place[1] == "accuracy" else name_of(place[1])


def _key(part: str, family: str, row: Mapping[str, Any]) -> str:
    return "/".join((part, family, row["task"], row["metric"], row["model"], row["baseline"]))
