"""The checks of every asset, run on its output before it replaces the old one. All except ADVISORY are blocking."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rsqa_pipeline.curated_subsets.selection.explain import vanished_groups
from rsqa_pipeline.data_quality.tables import MAIN_TABLE, SIDE_TABLES
from rsqa_pipeline.profile import Profile, SourcePairs
from rsqa_pipeline.profile.curated_subsets import Drift
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.stages.asset import Asset

ADVISORY = ("probes_pass", "no_group_vanishes", "score_drift_small")
"""Checks that only warn. Their findings are in the report; the probes decide about a promotion."""


DESCRIPTIONS = {
    "metrics_are_numbers": "Every metric is a finite number.",
    "great_expectations": "Every table meets the suite of its record type: columns, types, ranges, unique ids.",
    "rows_add_up": "Rows read are rows kept plus rows quarantined, and some are kept.",
    "few_quarantined": "No more rows are quarantined than source_pairs.max_quarantined_share allows.",
    "families_counted": "Every family of pairs that training needs is there, and the metrics count it right.",
    "probes_pass": "The score of a caption falls where one thing in it is made wrong, more often than by chance.",
    "no_group_vanishes": "Something is kept of every class and source.",
    "score_drift_small": "Scores of the last two phases agree in distribution and in which samples rank first.",
}
"""What each check demands, in one sentence."""

NOT_FAULTS = ("near_duplicate", "in_benchmark", "forgotten")
"""Reasons that are not a sign of broken data. Exact repeats are one, unless the profile expects them."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check: whether it passed, and what it found."""

    name: str
    passed: bool
    detail: str
    facts: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_names(asset: Asset) -> list[str]:
    """Names of the checks that `run_checks` makes for an asset."""
    return ["metrics_are_numbers", *asset.checks]


def run_checks(asset: Asset, folder: Path, metrics: Metrics, profile: Profile) -> list[CheckResult]:
    """Runs an asset's checks on the new output in ``folder``."""
    checks = {
        "metrics_are_numbers": lambda: _metrics_are_numbers(metrics),
        "probes_pass": lambda: _probes_pass(metrics),
        "no_group_vanishes": lambda: _no_group_vanishes(folder),
        "score_drift_small": lambda: _score_drift_small(metrics, profile.curated_subsets.drift),
        "great_expectations": lambda: _great_expectations(asset, folder),
        "rows_add_up": lambda: _rows_add_up(metrics),
        "families_counted": lambda: _families_counted(asset, folder, metrics),
        "few_quarantined": lambda: _few_quarantined(asset, metrics, profile.source_pairs),
    }
    return [checks[name]() for name in check_names(asset)]


def _metrics_are_numbers(metrics: Metrics) -> CheckResult:
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    detail = f"not finite: {', '.join(bad)}" if bad else f"{len(metrics)} metrics, all finite"
    return CheckResult("metrics_are_numbers", not bad, detail)


def _great_expectations(asset: Asset, folder: Path) -> CheckResult:
    from rsqa_pipeline.data_quality.suites import validate  # the import takes seconds; not every asset needs it

    assert asset.records is not None
    tables = {asset.records: folder / MAIN_TABLE[asset.records]}
    tables |= {record: folder / name for record, name in SIDE_TABLES.items() if (folder / name).is_file()}
    results = [validate(record, table) for record, table in tables.items()]
    met = sum(result.expectations for result in results)
    faults = [fault for result in results for fault in result.faults]
    detail = "; ".join(faults) or f"{met} expectations met"
    return CheckResult("great_expectations", all(result.success for result in results), detail, {"expectations": met})


def _rows_add_up(metrics: Metrics) -> CheckResult:
    read, kept, quarantined = (metrics[f"{name}_rows"] for name in ("input", "kept", "quarantined"))
    detail = f"{kept:.0f} kept + {quarantined:.0f} quarantined, {read:.0f} read"
    return CheckResult("rows_add_up", kept + quarantined == read and kept > 0, detail)


def _probes_pass(metrics: Metrics) -> CheckResult:
    """The score of a corrupted caption drops more often than by chance (`score_model.evaluation.probes`)."""
    falls = {name.split(".")[1]: value for name, value in metrics.items() if re.fullmatch(r"probe\.\w+\.low", name)}
    failed = [f"{name} {metrics[f'probe.{name}.value']:.2f}" for name, low in falls.items() if low <= 0.5]
    detail = f"no better than chance: {', '.join(failed)}" if failed else f"{len(falls)} probes, all above chance"
    return CheckResult("probes_pass", not failed, detail, falls)


def _no_group_vanishes(folder: Path) -> CheckResult:
    """At least one sample of every class and source is kept."""
    lost = vanished_groups(json.loads((folder / "shares.json").read_text(encoding="utf-8")))
    detail = f"nothing is kept of {', '.join(lost)}" if lost else "something is kept of every class and source"
    return CheckResult("no_group_vanishes", not lost, detail, {"vanished_groups": float(len(lost))})


def _score_drift_small(metrics: Metrics, limits: Drift) -> CheckResult:
    """Scores of the score model's last two phases are alike in distribution and in which samples rank first."""
    shift, overlap = metrics["psi"], metrics.get("top_30_jaccard", 0.0)
    detail = f"PSI {shift:.3f}, at most {limits.max_psi:g} (curated_subsets.drift.max_psi); overlap of the best 30 % "
    detail += f"{overlap:.2f}, at least {limits.min_top_overlap:g} (curated_subsets.drift.min_top_overlap)"
    passed = shift <= limits.max_psi and overlap >= limits.min_top_overlap
    return CheckResult("score_drift_small", passed, detail, {"psi": shift, "top_30_jaccard": overlap})


def _families_counted(asset: Asset, folder: Path, metrics: Metrics) -> CheckResult:
    """Every required family has pairs, and the metrics report the same counts as the table."""
    column = pq.read_table(folder / MAIN_TABLE["preference_pair"], columns=["family"])["family"]
    found = {str(row["values"]): float(row["counts"]) for row in column.value_counts().to_pylist()}
    missing = [family for family in asset.families if family not in found]
    reported = {name.removeprefix("pairs/"): count for name, count in metrics.items() if name.startswith("pairs/")}
    counts = ", ".join(f"{count:.0f} {family}" for family, count in sorted(found.items()))
    detail = f"pairs: {counts or 'none'}"
    if missing:
        detail += f"; none of family {', '.join(missing)}"
    if reported != found:
        detail += f"; the metrics say {reported}"
    facts = {f"pairs/{family}": count for family, count in found.items()}
    return CheckResult("families_counted", not missing and reported == found, detail, facts)


def _few_quarantined(asset: Asset, metrics: Metrics, pairs: SourcePairs) -> CheckResult:
    reasons = [*NOT_FAULTS, *(["duplicate_id"] if _expects_repeats(asset, pairs) else [])]
    besides = sum(metrics.get(f"quarantined/{reason}", 0.0) for reason in reasons)
    share = (metrics["quarantined_rows"] - besides) / max(metrics["input_rows"], 1.0)
    limit = pairs.max_quarantined_share
    detail = f"{share:.2%} quarantined, at most {limit:.2%} allowed (source_pairs.max_quarantined_share)"
    if besides:
        detail += f"; {besides:.0f} repeats, benchmark and forgotten items besides"
    if share > limit and (repeats := metrics.get("quarantined/duplicate_id", 0.0)):
        detail += f"; {repeats:.0f} rows repeat image and text; if this is usual, set the source's repeats_expected"
    return CheckResult("few_quarantined", share <= limit, detail, {"quarantined_share": share})


def _expects_repeats(asset: Asset, pairs: SourcePairs) -> bool:
    """Whether the profile says that this asset's source repeats itself."""
    if asset.name == "image_text_pairs":
        return pairs.captions.repeats_expected
    return asset.name == "instruction_samples" and bool(pairs.instructions and pairs.instructions.repeats_expected)
