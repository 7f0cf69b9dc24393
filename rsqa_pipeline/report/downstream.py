"""The report's section on fine-tuned models: the paper's tables with ours beside, and the paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
POOLED = "all_tasks"
"""The benchmarks' own name of the row over the items of every task."""

TITLES = {"clip": "CLIP", "vlm": "Vision-language model"}


def paper_figures() -> dict[str, Any]:
    """The paper's figures, from ``paper_figures.yaml`` beside this file."""
    figures: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper_figures.yaml").read_text(encoding="utf-8"))
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
            Fold(f"{title}: paired comparisons", [comparison_table(family, title, comparisons)]),
        ]
    return Section(
        "downstream",
        "Models fine-tuned on each subset",
        blocks,
        lead="Ours with the 95 % interval below. The paper's figures are of other models on other data: the order of "
        "the rows compares, the height does not. ▲ ▼ above or below the score-model row, where the paired interval "
        "excludes 0. ★ the score-model row is above all other subsets and the start in that way. "
        "No mark: not told apart from the score-model row.",
    )


def main_places(family: str) -> list[Place]:
    """The figures of ours that answer to the paper's, one for each thing asked; the pooled one is not among them."""
    groups = paper_figures()[family]["groups"]
    return [(ours["task"], ours["metric"]) for group in groups for ours in group["ours"] if ours["task"] != POOLED]


def verdict(row: Mapping[str, Any]) -> str:
    """What a paired comparison says; "not told apart" where its interval holds 0 or is missing."""
    low, high = row["low"], row["high"]
    if low is None or high is None or low <= 0 <= high:
        return "not told apart"
    return "better" if low > 0 else "worse"


def beside_paper(family: str, results: Rows, comparisons: Rows) -> Table:
    """The paper's table with ours beside each of its columns; what was not measured here has no column of ours."""
    paper = paper_figures()[family]
    measured = {(row["task"], row["metric"]) for row in results}
    theirs = {model: iter(figures) for model, figures in paper["rows"].items()}
    models = [model for model in MODELS if any(row["model"] == model for row in results)]
    table = {model: [_name(model)] for model in models}
    header, chance, groups = ["fine-tuned on"], [words("chance")], [("", 1)]
    for group in paper["groups"]:
        places = [place for ours in group["ours"] if (place := (ours["task"], ours["metric"])) in measured]
        header += [_heading(place) for place in places]
        chance += [_chance(results, place) for place in places]
        for model in models:
            table[model] += [_figure(family, model, place, results, comparisons) for place in places]
        if group["paper"] is not None:
            header.append(f"paper: {group['paper']}")
            chance.append(Cell("–", paper=True))
            for model in models:
                figure = next(theirs.get(model, iter(())), None)
                table[model].append(Cell("–" if figure is None else f"{figure:.2f}", paper=True))
        width = len(places) + (group["paper"] is not None)
        groups += [(group["title"], width)] if width else []
    return Table(f"{TITLES[family]}: ours and the paper's, %", header, [*table.values(), chance], groups)


def all_figures(family: str, results: Rows, comparisons: Rows) -> Table:
    """One row a model, one column a task and metric."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    places = sorted(dict.fromkeys((r["task"], r["metric"]) for r in results), key=lambda place: tasks.index(place[0]))
    table = [
        [_name(model), *(_figure(family, model, place, results, comparisons, "all/") for place in places)]
        for model in MODELS
        if any(row["model"] == model for row in results)
    ]
    table.append([words("chance"), *(_chance(results, place) for place in places)])
    groups = [("", 1), *((name_of(task), sum(place[0] == task for place in places)) for task in tasks)]
    return Table(
        f"{TITLES[family]}: every figure, %",
        ["fine-tuned on", *(name_of(m) for _, m in places)],
        table,
        groups,
    )


def comparison_table(family: str, title: str, comparisons: Rows) -> Table:
    """Paired differences over the same items."""
    table = [
        [
            words(f"{name_of(row['task'])}, {name_of(row['metric'])}"),
            _name(row["model"]),
            _name(row["baseline"]),
            percent(interval(row), key=_key("difference", family, row), signed=True),
            Cell(_p_value(row["p_value"])),
            words(verdict(row)),
        ]
        for row in comparisons
    ]
    return Table(
        f"{title}: paired differences, percentage points",
        ["benchmark", "the first", "against", "difference", "p", "the first is"],
        table,
        note="Bootstrap over the same items. The p values are not corrected for the number of comparisons.",
    )


def tally(family: str, comparisons: Rows, baseline: str) -> Counter[str]:
    """Verdicts on the score-model subset's model against ``baseline``'s, one for each of `main_places`."""
    return Counter(
        verdict(row)
        for row in comparisons
        if (row["model"], row["baseline"]) == (CURATED, baseline)
        and (row["task"], row["metric"]) in main_places(family)
    )


def _name(model: str) -> Cell:
    return words(name_of(model), tint=plots.colour(model))


def _figure(family: str, model: str, place: Place, results: Rows, comparisons: Rows, part: str = "") -> Cell:
    found = next((row for row in results if (row["model"], row["task"], row["metric"]) == (model, *place)), None)
    against = _against_curated([row for row in comparisons if (row["task"], row["metric"]) == place])
    best = model == CURATED and all(against.get(rival) == "▼" for rival in RIVALS)
    key = f"{part}{family}/{model}/{place[0]}/{place[1]}"
    mark = "★" if best else against.get(model, "")
    return percent(interval(found) if found else None, key=key, note=mark, strong=best)


def _against_curated(comparisons: Rows) -> dict[str, str]:
    """Model -> ▲ or ▼ where it is told apart from the score-model subset's model, else ""."""
    marks = {}
    for row in comparisons:
        better, worse = ("▼", "▲") if row["model"] == CURATED else ("▲", "▼")
        other = row["baseline"] if row["model"] == CURATED else row["model"]
        if CURATED in (row["model"], row["baseline"]):
            marks[other] = {"better": better, "worse": worse}.get(verdict(row), "")
    return marks


def _p_value(p: float | None) -> str:
    if p is None:
        return UNKNOWN
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _chance(results: Rows, place: Place) -> Cell:
    found = (row["chance"] for row in results if (row["task"], row["metric"]) == place and row["chance"] is not None)
    chance = next(found, None)
    return words(UNKNOWN) if chance is None else Cell(f"{100 * chance:.1f}", key=f"chance/{place[0]}/{place[1]}")


def _heading(place: Place) -> str:
    return name_of(place[0]) if place[1] == "accuracy" else name_of(place[1])


def _key(part: str, family: str, row: Mapping[str, Any]) -> str:
    return "/".join((part, family, row["task"], row["metric"], row["model"], row["baseline"]))
