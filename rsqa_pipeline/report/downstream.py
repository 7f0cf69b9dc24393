"""The report's section on fine-tuned models: our results beside the paper's, and the paired comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.compared import Compared
from rsqa_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Collapsible,
    ReportSection,
    Table,
    interval,
    percent,
    text_cell,
)
from rsqa_pipeline.report.reading import name_of, rows
from rsqa_pipeline.statistics import detectable_difference, holm

Rows = list[dict[str, Any]]
MetricKey = tuple[str, str]
"""(task, metric) of a benchmark result."""

POOLED = "all_tasks"
"""The benchmarks' name of the row over the items of all tasks."""

TITLES = {"clip": "CLIP", "vlm": "Vision-language model"}


def paper_figures() -> dict[str, Any]:
    """The paper's results, from ``paper_figures.yaml`` in this folder."""
    figures: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("paper_figures.yaml").read_text(encoding="utf-8"))
    return figures


def section(inputs: Mapping[str, Path], compared: Compared) -> ReportSection:
    """For CLIP and VLM: our results beside the paper's, all our results, and the paired comparisons."""
    blocks: list[Block | Collapsible] = []
    for family, title in TITLES.items():
        folder = inputs[f"{family}_benchmark"]
        results, comparisons = rows(folder / "results.parquet"), rows(folder / "comparisons.parquet")
        blocks += [
            beside_paper(family, compared, results, comparisons),
            Collapsible(f"{title}: all results", [all_figures(family, compared, results, comparisons)]),
            Collapsible(f"{title}: paired comparisons", [comparison_table(family, title, compared, comparisons)]),
        ]
    return ReportSection(
        "downstream",
        "Models fine-tuned on each subset",
        blocks,
        lead="Our results have the 95 % interval below them. The paper's results are from other models and other data: "
        "compare the order of the rows, not the values. ▲ ▼: above or below the row of the main subset; the paired "
        "interval excludes 0. ★: the row of the main subset is above the untuned base and above all other subsets in "
        "this sense. ≈: compared, no clear difference. No mark: not compared with the row of the main subset.",
    )


def main_metrics(family: str) -> list[MetricKey]:
    """Our metrics that correspond to the paper's, without the pooled one."""
    groups = paper_figures()[family]["groups"]
    return [(ours["task"], ours["metric"]) for group in groups for ours in group["ours"] if ours["task"] != POOLED]


def verdict(row: Mapping[str, Any]) -> str:
    """Verdict of a paired comparison: "no clear difference" if the interval contains 0, "not compared" without one."""
    low, high = row["low"], row["high"]
    if low is None or high is None:
        return "not compared"
    if low <= 0 <= high:
        return "no clear difference"
    return "better" if low > 0 else "worse"


def beside_paper(family: str, compared: Compared, results: Rows, comparisons: Rows) -> Table:
    """The paper's table with our results beside each of its columns, where they were measured."""
    paper = paper_figures()[family]
    measured = {(row["task"], row["metric"]) for row in results}
    theirs = {row: iter(paper["rows"].get(_paper_row(compared, row), ())) for row in compared.models}
    models = [model for model in compared.models if any(row["model"] == model for row in results)]
    table = {model: [model_cell(compared, model)] for model in models}
    header, chance, groups = ["fine-tuned on"], [text_cell("chance")], [("", 1)]
    for group in paper["groups"]:
        keys = [metric_key for ours in group["ours"] if (metric_key := (ours["task"], ours["metric"])) in measured]
        header += [_heading(metric_key) for metric_key in keys]
        chance += [chance_cell(results, metric_key) for metric_key in keys]
        for model in models:
            table[model] += [
                result_cell(family, compared, model, metric_key, results, comparisons) for metric_key in keys
            ]
        if group["paper"] is not None:
            header.append(f"paper: {group['paper']}")
            chance.append(Cell("–", paper=True))
            for model in models:
                figure = next(theirs.get(model, iter(())), None)
                table[model].append(Cell("–" if figure is None else f"{figure:.2f}", paper=True))
        width = len(keys) + (group["paper"] is not None)
        groups += [(group["title"], width)] if width else []
    return Table(f"{TITLES[family]}: our results and the paper's, %", header, [*table.values(), chance], groups)


def all_figures(family: str, compared: Compared, results: Rows, comparisons: Rows) -> Table:
    """One row per model, one column per task and metric."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    keys = sorted(
        dict.fromkeys((r["task"], r["metric"]) for r in results), key=lambda metric_key: tasks.index(metric_key[0])
    )
    table = [
        [
            model_cell(compared, model),
            *(result_cell(family, compared, model, metric_key, results, comparisons, "all/") for metric_key in keys),
        ]
        for model in compared.models
        if any(row["model"] == model for row in results)
    ]
    table.append([text_cell("chance"), *(chance_cell(results, metric_key) for metric_key in keys)])
    groups = [("", 1), *((name_of(task), sum(metric_key[0] == task for metric_key in keys)) for task in tasks)]
    return Table(
        f"{TITLES[family]}: all results, %",
        ["fine-tuned on", *(name_of(m) for _, m in keys)],
        table,
        groups,
    )


def comparison_table(family: str, title: str, compared: Compared, comparisons: Rows) -> Table:
    """Table of paired differences over the same items."""
    tested = [index for index, row in enumerate(comparisons) if row["p_value"] is not None]
    adjusted = dict(zip(tested, holm([comparisons[index]["p_value"] for index in tested]), strict=True))
    table = [
        [
            text_cell(f"{name_of(row['task'])}, {name_of(row['metric'])}"),
            model_cell(compared, row["model"]),
            model_cell(compared, row["baseline"]),
            percent(difference := interval(row), key=_key("difference", family, row), signed=True),
            Cell("–" if difference is None else f"{100 * detectable_difference(difference):.1f}"),
            Cell(_p_value(row["p_value"])),
            Cell(_p_value(adjusted.get(index))),
            text_cell(verdict(row)),
        ]
        for index, row in enumerate(comparisons)
    ]
    return Table(
        f"{title}: paired differences, percentage points",
        ["benchmark", "A", "B", "A − B", "detectable", "p", "p, Holm", "verdict on A"],
        table,
        note="Bootstrap over the same items; the verdict is by its interval. Detectable: the smallest difference that "
        "would be shown with a probability of 80 %. Holm's p values hold for all rows of the table together.",
    )


def _paper_row(compared: Compared, model: str) -> str:
    """The paper's row that a row of ours answers to: the one of the same selector."""
    rule = compared.rules.get(model)
    return str(rule.selector) if rule and compared.chosen_by(str(rule.selector)) == model else model


def tally(family: str, comparisons: Rows, model: str, baseline: str) -> Counter[str]:
    """Counts of verdicts on ``model`` against ``baseline`` over `main_metrics`; what was not compared is left out."""
    verdicts = Counter(
        verdict(row)
        for row in comparisons
        if (row["model"], row["baseline"]) == (model, baseline) and (row["task"], row["metric"]) in main_metrics(family)
    )
    del verdicts["not compared"]
    return verdicts


def model_cell(compared: Compared, model: str) -> Cell:
    """The name of a model or selector, with the colour that it has in the plots."""
    label = compared.label(model) if model in compared.models else name_of(model)
    return text_cell(label, tint=compared.colour(model))


def result_cell(
    family: str, compared: Compared, model: str, metric_key: MetricKey, results: Rows, comparisons: Rows, part: str = ""
) -> Cell:
    """One result with its interval and its mark; "not known" if it was not measured."""
    found = next((row for row in results if (row["model"], row["task"], row["metric"]) == (model, *metric_key)), None)
    against = _against_main(compared.main, [row for row in comparisons if (row["task"], row["metric"]) == metric_key])
    best = model == compared.main and all(against.get(rival) == "▼" for rival in ("base", *compared.baselines))
    key = f"{part}{family}/{model}/{metric_key[0]}/{metric_key[1]}"
    mark = "★" if best else against.get(model, "")
    return percent(interval(found) if found else None, key=key, note=mark, strong=best)


def _against_main(main: str, comparisons: Rows) -> dict[str, str]:
    """Model -> ▲ or ▼ if it clearly differs from the main subset's model, ≈ if not; a model not compared has none."""
    marks = {}
    for row in comparisons:
        better, worse = ("▼", "▲") if row["model"] == main else ("▲", "▼")
        other = row["baseline"] if row["model"] == main else row["model"]
        if main in (row["model"], row["baseline"]):
            marks[other] = {"better": better, "worse": worse, "no clear difference": "≈"}.get(verdict(row), "")
    return marks


def _p_value(p: float | None) -> str:
    if p is None:
        return UNKNOWN
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def chance_cell(results: Rows, metric_key: MetricKey) -> Cell:
    """Chance level of a metric, %; "not known" if it has none."""
    found = (
        row["chance"] for row in results if (row["task"], row["metric"]) == metric_key and row["chance"] is not None
    )
    chance = next(found, None)
    return (
        text_cell(UNKNOWN)
        if chance is None
        else Cell(f"{100 * chance:.1f}", key=f"chance/{metric_key[0]}/{metric_key[1]}")
    )


def _heading(metric_key: MetricKey) -> str:
    return name_of(metric_key[0]) if metric_key[1] == "accuracy" else name_of(metric_key[1])


def _key(part: str, family: str, row: Mapping[str, Any]) -> str:
    return "/".join((part, family, row["task"], row["metric"], row["model"], row["baseline"]))
