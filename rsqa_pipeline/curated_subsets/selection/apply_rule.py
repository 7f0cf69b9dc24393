"""Applies a rule to a table in memory: which samples are kept or dropped, and why."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from rsqa_pipeline.curated_subsets.corpus import Kind
from rsqa_pipeline.curated_subsets.selection.diversity import facility_location, read_embeddings
from rsqa_pipeline.curated_subsets.selection.ranking import (
    crowded,
    describe_rule,
    image_column,
    is_random,
    kept_count,
    lower_bound,
    percentile,
    quota,
    ranking_keys,
    standardized,
)
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

SCORED = ("score_model", "clip_score", "oracle")
"""Selectors that rank by the column of the same name."""
SPREAD = "spread"
"""Column with the spread of the score model's score."""
NO_SPREAD = ". Scores have a spread if the score model has score_model.bootstrap_heads"


def apply_rule(samples: pd.DataFrame, rule: SubsetRule, seed: int) -> pd.DataFrame:
    """One row per sample, with the samples' index; does not depend on the order of the rows.

    Columns: ``kept``; ``rank`` (1 + number of samples in the group that rank strictly higher, NaN without a score);
    ``percentile`` (percentage of the group's scored samples that rank equal or lower); ``rule`` as text; ``reason`` of
    a dropped sample, None for a kept one: ``no_score``, ``below_threshold``, ``image_full``, ``outside_top``,
    ``not_drawn`` or ``too_similar``. A group is a kind, or with ``per`` the samples of a kind with one value of that
    column (samples without a value form one group). For an intersection or union, the values of a dropped sample are
    those of the first rule that drops it.

    Args:
        samples: unique index, columns ``sample_id``, ``kind`` (caption | instruction), the columns that the rule ranks
            by (scores: higher is better, NaN if missing) and groups by.

    Raises:
        DataError: a column named by the rule or an embedding is missing.
    """
    if rule.parts:
        return _combine([apply_rule(samples, part, seed) for part in rule.parts], union=bool(rule.any_of))
    ranked_by: list[str] = [name for name in (rule.selector, *rule.weights) if name in SCORED]
    if rule.bound:
        ranked_by.append(SPREAD)
    missing = [name for name in (*ranked_by, rule.per) if name is not None and name not in samples]
    if missing:
        raise DataError(
            f"the rule needs column {missing[0]!r}; the samples have {', '.join(map(str, samples))}"
            f"{NO_SPREAD if missing[0] == SPREAD else ''}"
        )
    scores = ranking_scores(samples, rule)
    keys = ranking_keys(rule, samples["sample_id"], scores, seed)
    table = pd.DataFrame({"sample_id": samples["sample_id"], "key": keys}, index=samples.index)
    table["passes"] = ~np.isnan(keys)
    if rule.threshold is not None and scores is not None:
        table["passes"] &= scores >= rule.threshold
    group = samples[rule.per].astype("string").fillna("") if rule.per else pd.Series("", index=samples.index)
    table["image_full"] = False
    if rule.max_per_image is not None:
        groups = samples["kind"].astype(str) + "\n" + group
        shown = table.assign(group=groups, image=samples[image_column([str(name) for name in samples])])
        table["image_full"] = crowded(shown.assign(key=shown["key"].where(shown["passes"])), rule.max_per_image)
    parts = [
        _apply_to_group(rows, rule, str(kind))  # type: ignore[arg-type]
        for (kind, _), rows in table.groupby([samples["kind"], group])
    ]
    if not parts:
        return _all_dropped(table, pd.Series(dtype=float), rule, "caption")
    return pd.concat(parts).loc[samples.index]


def ranking_scores(samples: pd.DataFrame, rule: SubsetRule) -> npt.NDArray[np.float64] | None:
    """(n,) scores of a rule's selector, or their lower bounds, NaN if missing; None for the selectors all and
    random."""
    if rule.selector == "blend":
        parts = [weight * standardized(samples[name], samples["kind"]) for name, weight in rule.weights.items()]
        return np.sum([part.to_numpy(dtype=float) for part in parts], axis=0)
    if rule.selector not in SCORED:
        return None
    scores = samples[rule.selector].to_numpy(dtype=float)
    return lower_bound(scores, samples[SPREAD].to_numpy(dtype=float)) if rule.bound else scores


def _apply_to_group(rows: pd.DataFrame, rule: SubsetRule, kind: Kind) -> pd.DataFrame:
    ordered = _best_first(rows[rows["passes"] & ~rows["image_full"]])
    count = quota(rule, kind, len(rows))
    pool = ordered.head(max(count, kept_count(len(rows), rule.diverse.top)) if rule.diverse else count)
    kept = pool.index
    if rule.diverse and len(pool) > count:
        by_id = pool.sort_values("sample_id")  # the selection must not depend on the order of the rows
        vectors = read_embeddings(rule.diverse.embeddings, by_id["sample_id"].tolist())
        kept = by_id.index[facility_location(vectors, count)]
    outcome = _all_dropped(rows, rows["key"].rank(method="min", ascending=False), rule, kind)
    outcome.loc[kept, "kept"] = True
    outcome.loc[kept, "reason"] = None
    outcome.loc[pool.index.difference(kept), "reason"] = "too_similar"
    return outcome


def _best_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by falling key, equal keys by id. Only ids of equal keys are compared: sorting all texts takes longest."""
    ordered = rows.iloc[np.argsort(-rows["key"].to_numpy(), kind="stable")]
    tied = ordered["key"].duplicated(keep=False).to_numpy()
    if not tied.any():
        return ordered
    places = np.arange(len(ordered))
    among_ties = ordered[tied].reset_index(drop=True).sort_values(["key", "sample_id"], ascending=[False, True]).index
    places[tied] = places[tied][among_ties]
    return ordered.iloc[places]


def _all_dropped(rows: pd.DataFrame, ranks: pd.Series, rule: SubsetRule, kind: Kind) -> pd.DataFrame:
    """All rows as dropped, with the reason that applies outside the pool."""
    missed = "not_drawn" if is_random(rule) else "outside_top"
    cases = [rows["key"].isna(), ~rows["passes"], rows["image_full"]]
    reasons = np.select(cases, ["no_score", "below_threshold", "image_full"], missed)
    figures = {"kept": False, "rank": ranks, "percentile": percentile(ranks.to_numpy(), int(rows["key"].count()))}
    outcome = pd.DataFrame({**figures, "rule": describe_rule(rule, kind)}, index=rows.index)
    outcome["reason"] = pd.Series(reasons, index=rows.index, dtype=object)
    return outcome


def _combine(parts: list[pd.DataFrame], union: bool) -> pd.DataFrame:
    result = parts[0].copy()
    for part in parts[1:]:
        if union:
            result.loc[part["kept"], "kept"] = True
            result.loc[part["kept"], "reason"] = None
        else:
            first = result["kept"] & ~part["kept"]
            result.loc[first] = part.loc[first]
    return result
