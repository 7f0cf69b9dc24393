"""Whether curation pays: each claim with its verdict, by the rule of docs/evidence.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsqa_pipeline.compared import Compared
from rsqa_pipeline.report.blocks import ReportSection, Table, interval, percent, text_cell
from rsqa_pipeline.report.downstream import POOLED, TITLES, Rows
from rsqa_pipeline.report.reading import rows
from rsqa_pipeline.statistics import Interval

Verdict = Literal["GO", "NO-GO", "INCONCLUSIVE", "not measured"]
MIN_SHARE_OF_ORACLE = 0.7
"""Share of the oracle's gain over all data that the main subset's model must reach."""


@dataclass(frozen=True)
class Claim:
    text: str
    verdict: Verdict
    differences: Mapping[tuple[str, str], Interval | None]
    """(model, baseline) -> paired difference, -1 to 1; None if it was not measured."""


def section(inputs: Mapping[str, Path], compared: Compared) -> ReportSection:
    """One table: claim, verdict, and the differences that decide it."""
    table = []
    for family, title in TITLES.items():
        for claim in claims_of(rows(inputs[f"{family}_benchmark"] / "comparisons.parquet"), compared):
            for index, ((model, baseline), difference) in enumerate(claim.differences.items()):
                heads = (title, claim.text, str(claim.verdict)) if index == 0 else ("", "", "")
                names = text_cell(f"{compared.label(model)} − {compared.label(baseline)}")
                figure = percent(difference, f"claims/{family}/{model}/{baseline}", signed=True)
                table.append([text_cell(heads[0]), text_cell(heads[1]), text_cell(heads[2]), names, figure])
    note = (
        "GO: every interval lies above 0. NO-GO: one lies below 0. INCONCLUSIVE: anything else. Differences are over "
        "all tasks of a table, in percentage points; intervals are 95 %, by bootstrap over training seeds and images. "
        "Other parts are neither bounds nor another rule on the same scores."
    )
    return ReportSection(
        "claims",
        "Does curation pay?",
        [Table("Claims", ["", "claim", "verdict", "A − B", "difference"], table, note=note)],
        lead="The rule was written down before the runs that it judges. The paper's order is base, all data, "
        "CLIP score, score model.",
    )


def claims_of(comparisons: Rows, compared: Compared) -> list[Claim]:
    """The claims about one benchmark, from its paired differences (rows of COMPARISON)."""
    found = {(row["model"], row["baseline"]): interval(row) for row in comparisons if row["task"] == POOLED}
    everything, oracle = compared.chosen_by("all"), compared.chosen_by("oracle")
    claims = []
    for subset in compared.variants:
        pays = {(subset, rival): found.get((subset, rival)) for rival in ("base", *compared.rivals)}
        claims.append(Claim(f"{compared.label(subset)} beats the base and every other part", verdict_of(pays), pays))
    if everything is not None:
        tuned = {(everything, "base"): found.get((everything, "base"))}
        claims.append(Claim("tuning on all data beats the base", verdict_of(tuned), tuned))
    if everything is not None and oracle is not None:
        share = f"{100 * MIN_SHARE_OF_ORACLE:.0f} % of the oracle's gain over all data"
        for subset in compared.variants:
            gains = {(name, everything): found.get((name, everything)) for name in (subset, oracle)}
            claims.append(Claim(f"{compared.label(subset)} reaches {share}", _share_verdict(*gains.values()), gains))
    return claims


def verdict_of(differences: Mapping[tuple[str, str], Interval | None]) -> Verdict:
    """GO if every interval lies above 0, NO-GO if one lies below 0, otherwise INCONCLUSIVE."""
    known = [difference for difference in differences.values() if difference is not None]
    if len(known) < len(differences) or not known:
        return "not measured"
    if any(difference.high < 0 for difference in known):
        return "NO-GO"
    return "GO" if all(difference.low > 0 for difference in known) else "INCONCLUSIVE"


def _share_verdict(main: Interval | None, oracle: Interval | None) -> Verdict:
    """By the point estimates, if the oracle's gain lies above 0."""
    if main is None or oracle is None:
        return "not measured"
    if oracle.low <= 0:
        return "INCONCLUSIVE"
    return "GO" if main.value >= MIN_SHARE_OF_ORACLE * oracle.value else "NO-GO"
