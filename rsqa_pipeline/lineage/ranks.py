"""Where the samples of a subset stand among all that its rule ranked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rsqa_pipeline.curated_subsets.selection.apply_rule import SCORED, SPREAD, apply_rule, ranking_scores
from rsqa_pipeline.curated_subsets.selection.ranking import Keys, describe_rule, is_random, ranking_keys
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.columns import Mask
from rsqa_pipeline.profile.curated_subsets import SubsetRule

RANKED = ["rank", "percentile", "rule"]


def columns_of(rule: SubsetRule) -> set[str]:
    """Columns of samples.parquet that `ranks` needs besides ``sample_id``."""
    if rule.any_of:
        return columns_of(rule.any_of[0])
    own = {rule.per, "image_id" if rule.max_per_image else None, "true_quality" if rule.selector == "oracle" else None}
    return {name for name in own if name is not None}.union(*(columns_of(part) for part in rule.all_of))


def ranks(ids: pa.ChunkedArray, samples: pd.DataFrame, rule: SubsetRule, seed: int, listed: Mask) -> pd.DataFrame:
    """RANKED columns of `apply_rule` for the listed samples, in their order, index from 0.

    For a rule with a selector they do not depend on which samples it keeps, so that nothing is decided. For an
    intersection all is decided, since a sample has the rank of the rule that drops it.

    Args:
        ids: of the n samples.
        samples: as for `apply_rule`, without ``sample_id``; index from 0, ``kind`` is a category.
        listed: (n,) one value per sample.

    Raises:
        DataError: a column named by the rule is missing.
    """
    if rule.any_of:  # a union has the ranks of its first rule
        return ranks(ids, samples, rule.any_of[0], seed, listed)
    if rule.all_of:
        decided = apply_rule(samples.assign(sample_id=ids.to_pandas()), rule, seed)
        return decided.loc[listed, RANKED].reset_index(drop=True)
    for name in (rule.selector if rule.selector in SCORED else None, SPREAD if rule.bound else None, rule.per):
        if name is not None and name not in samples:
            raise DataError(f"the rule needs column {name!r}; the samples have {', '.join(map(str, samples))}")
    names = ids.to_pylist() if is_random(rule) else ids
    keys = ranking_keys(rule, names, ranking_scores(samples, rule), seed)
    kinds = samples["kind"].cat
    groups = np.asarray(kinds.codes, dtype=np.int64)
    if rule.per:
        of_column = pd.factorize(samples[rule.per].astype("string").fillna(""))[0]
        groups = groups + len(kinds.categories) * of_column.astype(np.int64)
    rank, scored = _ranks_in_groups(keys, groups, listed)
    # as `ranking.percentile`, for many groups at once
    found = pd.DataFrame({"rank": rank, "percentile": 100.0 * (scored - rank + 1) / np.maximum(scored, 1)})
    words = [describe_rule(rule, kind) for kind in kinds.categories]
    return found.assign(rule=pa.array(words).take(pa.array(kinds.codes[listed])).to_pandas())


def _ranks_in_groups(keys: Keys, groups: npt.NDArray[np.int64], listed: Mask) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Of each listed sample: 1 + number of samples of its group with a higher key, NaN without a key; and how many of
    the group have a key."""
    order = np.argsort(keys)  # NaN last
    order = order[np.argsort(groups[order], kind="stable")]
    key, group = keys[order], groups[order]
    is_last = np.append((key[1:] != key[:-1]) | (group[1:] != group[:-1]), True)  # of the samples with its key
    behind_equals = np.flatnonzero(is_last) + 1
    behind_equals = np.repeat(behind_equals, np.diff(behind_equals, prepend=0))
    sizes, scored = np.bincount(groups), np.bincount(groups[~np.isnan(keys)], minlength=groups.max(initial=-1) + 1)
    rank = np.empty(len(keys))
    rank[order] = np.where(np.isnan(key), np.nan, (np.cumsum(sizes) - sizes + scored)[group] - behind_equals + 1)
    return rank[listed], scored[groups[listed]]
