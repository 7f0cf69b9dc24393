"""Selection: fractions and ties by hand, and properties for any scores."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.curated_subsets.selection.ranking import kept_count
from rsqa_pipeline.curated_subsets.selection.subset import select_ids
from rsqa_pipeline.profile.curated_subsets import SubsetRule


def table(captions: list[float | None], instructions: list[float | None] = ()) -> pd.DataFrame:
    """Samples c000, c001, .. and i000, i001, .. with these scores."""
    rows = [(f"c{i:03d}", "caption", score) for i, score in enumerate(captions)]
    rows += [(f"i{i:03d}", "instruction", score) for i, score in enumerate(instructions)]
    return pd.DataFrame(rows, columns=["sample_id", "kind", "score_model"]).astype({"score_model": float})


def rule(captions: float = 0.3, instructions: float = 0.6, selector: str = "score_model") -> SubsetRule:
    return SubsetRule(selector=selector, caption_fraction=captions, instruction_fraction=instructions)


def test_best_fraction_of_each_kind():
    samples = table([5, 1, 4, 2, 3, 0, -1, -2, -3, -4], [100, 200, 300, 400, 500])
    assert select_ids(samples, rule(), seed=0) == ["c000", "c002", "c004", "i002", "i003", "i004"]


def test_equal_scores_are_ordered_by_sample_id():
    assert select_ids(table([1, 2, 1, 1]), rule(captions=0.5), seed=0) == ["c000", "c001"]


def test_sample_without_score_is_never_kept():
    assert select_ids(table([None, 2, None, 1]), rule(captions=1.0), seed=0) == ["c001", "c003"]


def test_missing_scores_do_not_make_the_subset_smaller():
    # Three of ten are to be kept, and three of ten have a score.
    assert select_ids(table([None] * 7 + [1, 2, 3]), rule(captions=0.3), seed=0) == ["c007", "c008", "c009"]


@pytest.mark.parametrize(
    ("samples", "share", "count"), [(10, 0.3, 3), (5, 0.3, 2), (4, 0.3, 1), (1, 0.3, 1), (0, 0.3, 0), (7, 1.0, 7)]
)
def test_kept_count(samples, share, count):
    assert kept_count(samples, share) == count


def test_all_keeps_all_and_needs_no_score():
    samples = table([None, 1], [None])
    assert select_ids(samples, SubsetRule(selector="all"), seed=0) == ["c000", "c001", "i000"]


def test_random_depends_on_the_seed_and_not_on_the_scores():
    samples, other = table([1.0] * 200), table([float(i) for i in range(200)])
    chosen = select_ids(samples, rule(selector="random"), seed=1)
    assert len(chosen) == 60
    assert chosen == select_ids(other, rule(selector="random"), seed=1)
    assert chosen != select_ids(samples, rule(selector="random"), seed=2)


def test_random_selects_each_sample_equally_often():
    samples = table([0.0] * 50)
    counts = pd.Series(
        [id_ for seed in range(60) for id_ in select_ids(samples, rule(selector="random"), seed)]
    ).value_counts()
    # 60 draws with chance 0.3: mean 18, deviation 3.5; five deviations either way.
    assert len(counts) == 50 and counts.between(1, 36).all()


scores = st.lists(st.one_of(st.none(), st.floats(-50, 50, width=32)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=30)
@given(scores, st.floats(0.01, 1.0))
def test_size_is_the_kept_count_limited_by_scored_samples(values, share):
    kept = select_ids(table(values), rule(captions=share), seed=0)
    scored = sum(value is not None for value in values)
    assert len(kept) == len(set(kept)) == min(scored, kept_count(len(values), share))


@settings(deadline=None, max_examples=30)
@given(scores, st.floats(0.01, 1.0))
def test_no_dropped_sample_scores_higher_than_a_kept_one(values, share):
    samples = table(values)
    kept = samples["sample_id"].isin(select_ids(samples, rule(captions=share), seed=0))
    worst = samples.loc[kept, "score_model"].min()
    best_dropped = samples.loc[~kept, "score_model"].max()
    assert math.isnan(best_dropped) or math.isnan(worst) or best_dropped <= worst


@settings(deadline=None, max_examples=30)
@given(scores, st.randoms(use_true_random=False), st.sampled_from(["score_model", "random", "all"]))
def test_order_of_rows_does_not_matter(values, random, selector):
    samples = table(values, values)
    order = list(range(len(samples)))
    random.shuffle(order)
    chosen = rule(selector=selector)
    assert select_ids(samples, chosen, seed=3) == select_ids(samples.iloc[order].reset_index(drop=True), chosen, seed=3)


@settings(deadline=None, max_examples=30)
@given(scores, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_smaller_fraction_is_a_subset_of_a_larger_one(values, one, other):
    samples, low, high = table(values), min(one, other), max(one, other)
    assert set(select_ids(samples, rule(captions=low), seed=0)) <= set(select_ids(samples, rule(captions=high), seed=0))
