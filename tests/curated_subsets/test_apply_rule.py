"""Applying a rule: conditions by hand, and properties for any scores."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rsqa_pipeline.curated_subsets.selection.apply_rule import apply_rule
from rsqa_pipeline.curated_subsets.selection.explain import Shares, dropped_rows, length_bucket, vanished_groups
from rsqa_pipeline.curated_subsets.selection.ranking import kept_count, uniform
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import sha256
from rsqa_pipeline.statistics import wilson


def table(scores: list[float | None], classes: list[str | None] | None = None) -> pd.DataFrame:
    """Captions c000, c001, .. with these scores and classes."""
    ids = [f"c{number:03d}" for number in range(len(scores))]
    frame = pd.DataFrame({"sample_id": ids, "kind": "caption"})
    frame["score_model"] = pd.Series(scores, dtype=float)
    frame["scene_class"] = pd.Series(classes or ["port"] * len(scores), dtype=object)
    return frame


def rule(**fields: object) -> SubsetRule:
    return SubsetRule.model_validate({"selector": "score_model", **fields})


def kept(samples: pd.DataFrame, chosen: SubsetRule, seed: int = 0) -> list[str]:
    return sorted(samples.loc[apply_rule(samples, chosen, seed)["kept"], "sample_id"])


def test_threshold_keeps_equal_scores_and_fraction_still_applies():
    samples = table([1.0, 2.0, 3.0, 4.0])
    assert kept(samples, rule(threshold=2.0)) == ["c001", "c002", "c003"]
    assert kept(samples, rule(threshold=2.0, caption_fraction=0.5)) == ["c002", "c003"]


def test_fraction_per_group_with_floor():
    samples = table([9, 8, 7, 6, 1, 2, None], ["port", "port", "port", "port", "farm", "farm", None])
    half = {"caption_fraction": 0.5, "per": "scene_class"}
    assert kept(samples, rule(**half)) == ["c000", "c001", "c005"]
    # the farm has two samples and keeps both; the sample without a class is its own group and has no score
    assert kept(samples, rule(**half, floor=3)) == ["c000", "c001", "c002", "c004", "c005"]


def test_a_limit_per_image_fills_up_with_other_images():
    samples = table([9, 8, 7, 6, 5, 4]).assign(image_id=["a", "a", "a", "b", "b", "c"])
    decisions = apply_rule(samples, rule(caption_fraction=0.5, max_per_image=1), 0)
    assert samples["sample_id"][decisions["kept"]].tolist() == ["c000", "c003", "c005"]
    assert decisions["reason"].tolist() == [None, "image_full", "image_full", None, "image_full", None]
    two = apply_rule(samples, rule(caption_fraction=0.5, max_per_image=2), 0)
    assert samples["sample_id"][two["kept"]].tolist() == ["c000", "c001", "c003"]
    assert two["reason"].tolist() == [None, None, "image_full", None, "outside_top", "outside_top"]
    assert set(two["rule"]) == {"score_model: best 50% of captions, at most 2 per image"}
    # a sample without an image or a score fills no image
    odd = table([9, 8, None, 1]).assign(image_id=[None, None, "a", "a"])
    assert kept(odd, rule(max_per_image=1)) == ["c000", "c001", "c003"]


def test_the_lower_bound_prefers_sure_scores():
    samples = table([3.0, 2.9, 1.0, 5.0, None]).assign(spread=[1.0, 0.1, 0.0, None, 0.1])
    assert kept(samples, rule(caption_fraction=0.4)) == ["c000", "c003"]
    decisions = apply_rule(samples, rule(caption_fraction=0.4, bound="lower"), 0)
    # lower bounds 1.355, 2.7355 and 1.0; without a spread or a score there is none
    assert decisions["reason"].tolist() == [None, None, "outside_top", "no_score", "no_score"]
    assert decisions["rank"].tolist()[:3] == [2, 1, 3]
    assert decisions["rule"][0] == "score_model lower bound: best 40% of captions"
    assert kept(samples, rule(threshold=1.5, bound="lower")) == ["c001"]
    with pytest.raises(DataError, match=r"column 'spread'.*score_model\.bootstrap_heads"):
        apply_rule(table([1.0]), rule(bound="lower"), 0)


def test_blend_adds_standardized_scores():
    # score_model: mean 3, deviation 1; clip_score: mean 10, deviation 10
    samples = table([4, 2, 4, 2]).assign(clip_score=[0.0, 20.0, 20.0, 0.0])
    blend = {"selector": "blend", "weights": {"score_model": 1.0, "clip_score": 0.5}}
    decisions = apply_rule(samples, SubsetRule.model_validate(blend | {"caption_fraction": 0.5}), 0)
    assert samples["sample_id"][decisions["kept"]].tolist() == ["c000", "c002"]
    assert decisions["rank"].tolist() == [2, 3, 1, 4]
    assert set(decisions["rule"]) == {"1 score_model + 0.5 clip_score: best 50% of captions"}
    # each kind has its own mean: the second kind's scores are 100 higher and rank the same
    both = pd.concat([samples, samples.assign(kind="instruction", score_model=samples["score_model"] + 100)])
    both = both.assign(sample_id=[f"s{i}" for i in range(8)]).reset_index(drop=True)
    assert apply_rule(both, SubsetRule.model_validate(blend), 0)["rank"].tolist() == [2, 3, 1, 4] * 2
    missing = samples.assign(clip_score=[None, 20.0, 20.0, 0.0])
    assert apply_rule(missing, SubsetRule.model_validate(blend), 0)["reason"].tolist()[0] == "no_score"
    for wrong in ({"selector": "blend"}, {"selector": "random", "weights": {"clip_score": 1.0}}):
        with pytest.raises(ValidationError, match="only blend has them"):
            SubsetRule.model_validate(wrong)


def test_intersection_and_union():
    samples = table([4, 3, 2, 1]).assign(clip_score=[1.0, 4.0, 2.0, 3.0])
    parts = [
        {"selector": "score_model", "caption_fraction": 0.5},
        {"selector": "clip_score", "caption_fraction": 0.5},
    ]
    assert kept(samples, SubsetRule.model_validate({"all_of": parts})) == ["c001"]
    assert kept(samples, SubsetRule.model_validate({"any_of": parts})) == ["c000", "c001", "c003"]


def test_dropped_samples_have_rank_percentile_and_reason():
    samples = table([4, 3, 3, 1, None])
    rows = dropped_rows(samples, apply_rule(samples, rule(caption_fraction=0.4, threshold=2), 0))
    explained = [(row["key"], row["rank"], row["percentile"], row["reason"]) for row in rows]
    assert [entry[:2] + entry[3:] for entry in explained] == [
        ("c002", 2, "outside_top"),
        ("c003", 4, "below_threshold"),
        ("c004", None, "no_score"),
    ]
    assert [entry[2] for entry in explained] == [75, 25, None]
    assert {row["rule"] for row in rows} == {"score_model: best 40% of captions, score at least 2"}


def test_intersection_reports_the_first_rule_that_drops_a_sample():
    samples = table([4, 3, 2, 1]).assign(clip_score=[1.0, 2.0, 3.0, 4.0])
    both = SubsetRule.model_validate(
        {"all_of": [{"selector": "score_model", "caption_fraction": 0.75}, {"selector": "clip_score", "threshold": 2}]}
    )
    reasons = {
        row["key"]: (row["rule"].split(":")[0], row["reason"])
        for row in dropped_rows(samples, apply_rule(samples, both, 0))
    }
    assert reasons == {"c000": ("clip_score", "below_threshold"), "c003": ("score_model", "outside_top")}


def test_draws_follow_the_temperature():
    """Without replacement the odds of the first of two draws are exp(score / temperature): 3 to 1 here."""
    samples = table([math.log(3.0), 0.0])
    drawn = rule(caption_fraction=0.5, temperature=1.0)
    wins = sum(kept(samples, drawn, seed) == ["c000"] for seed in range(2000))
    assert 1500 - 5 * 19.4 < wins < 1500 + 5 * 19.4  # binomial deviation: 19.4
    cold = rule(caption_fraction=0.5, temperature=0.01)
    assert all(kept(samples, cold, seed) == ["c000"] for seed in range(50))


def test_draws_use_the_records_hash():
    ids = ["a", "sample/1", "ü"]
    expected = [int(sha256("7", name)[:13], 16) / 16**13 for name in ids]
    assert uniform(ids, 7).tolist() == expected


def test_missing_column_error_lists_the_columns():
    with pytest.raises(DataError, match="needs column 'region'; the samples have sample_id, kind, score_model"):
        apply_rule(table([1.0]), rule(per="region"), 0)
    with pytest.raises(DataError, match="'clip_score'"):
        apply_rule(table([1.0]), SubsetRule(selector="clip_score"), 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of selector, all_of, any_of; found none"),
        ({"selector": "all", "any_of": [{"selector": "all"}]}, "found selector, any_of"),
        ({"all_of": [{"selector": "all"}], "threshold": 1}, "all_of stands alone; threshold belongs into its rules"),
        ({"selector": "random", "temperature": 1}, "temperature needs a score; selector random has none"),
        ({"selector": "score_model", "floor": 3}, "floor needs per"),
        ({"selector": "all", "diverse": {"embeddings": "e", "top": 0.5}}, "must not be below the fractions"),
        ({"selector": "score_model", "temperature": 0}, "greater than 0"),
    ],
)
def test_inconsistent_rules_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        SubsetRule.model_validate(fields)


scored = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(-9, 9, width=16)), st.sampled_from(["a", "b", None])),
    min_size=1,
    max_size=40,
)
rules = st.builds(
    lambda fraction, per, floor, threshold, temperature: rule(
        caption_fraction=fraction,
        per=per,
        floor=floor if per else 0,
        threshold=threshold,
        temperature=temperature,
    ),
    st.floats(0.01, 1),
    st.sampled_from([None, "scene_class"]),
    st.integers(0, 4),
    st.one_of(st.none(), st.floats(-9, 9)),
    st.sampled_from([None, 2.0]),
)


def drawn_table(rows: list[tuple[float | None, str | None]]) -> pd.DataFrame:
    return table([score for score, _ in rows], [name for _, name in rows])


@settings(deadline=None, max_examples=60)
@given(scored, rules, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, chosen, random):
    samples = drawn_table(rows)
    order = list(range(len(samples)))
    random.shuffle(order)
    shuffled = samples.iloc[order].reset_index(drop=True)
    one, other = (dropped_rows(frame, apply_rule(frame, chosen, 3)) for frame in (samples, shuffled))
    assert repr(one) == repr(other)


@settings(deadline=None, max_examples=60)
@given(scored, rules)
def test_floor_and_threshold_hold_in_every_group(rows, chosen):
    samples = drawn_table(rows)
    decisions = apply_rule(samples, chosen, 0)
    chosen_rows = samples[decisions["kept"]]
    assert chosen_rows["score_model"].notna().all()
    passing = samples[samples["score_model"] >= (-99 if chosen.threshold is None else chosen.threshold)]
    assert set(chosen_rows.index) <= set(passing.index)
    if chosen.per:
        have, keeps = (Counter(frame["scene_class"].fillna("none")) for frame in (passing, chosen_rows))
        assert all(keeps[name] >= min(count, chosen.floor) for name, count in have.items())
    assert (decisions["reason"].isna() == decisions["kept"]).all()


def test_shares_have_intervals_and_a_vanished_class_is_told_loudly():
    shares = Shares()
    samples = table([1.0] * 6, ["port", "port", "farm", "farm", "farm", None])
    samples = samples.assign(source="human", words=[3, 5, 6, 12, 25, 90])
    halves = np.array([True, False, False, False, False, True])
    shares.add(samples.iloc[:2], halves[:2])
    shares.add(samples.iloc[2:], halves[2:])
    rows = {(row["by"], row["value"]): row for row in shares.rows()}
    port = rows["scene_class", "port"]
    expected = wilson(1, 2)
    assert (port["samples"], port["kept"], port["dropped"]) == (2, 1, 1)
    assert (port["share"], port["low"], port["high"]) == (expected.value, expected.low, expected.high)
    assert rows["scene_class", "unknown"]["kept"] == 1 and rows["source", "human"]["samples"] == 6
    assert rows["words", "up to 5"]["samples"] == 2 and rows["words", "over 40"]["kept"] == 1
    assert vanished_groups(shares.rows()) == ["scene_class 'farm' (3 captions)"]
    assert [length_bucket(words) for words in (0, 5, 6, 40, 41)] == [
        "up to 5",
        "up to 5",
        "6 to 10",
        "21 to 40",
        "over 40",
    ]


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, math.nan]), st.text("abc", max_size=2)), min_size=1))
def test_ties_are_in_the_order_of_a_plain_sort(drawn: list[tuple[float, str]]) -> None:
    """Only ids of equal scores are compared; what is kept is what sorting everything would keep."""
    samples = table([score for score, _ in drawn])
    samples["sample_id"] = [f"{name}{number}" for number, (_, name) in enumerate(drawn)]
    plain = samples.dropna().sort_values(["score_model", "sample_id"], ascending=[False, True])
    expected = plain["sample_id"].head(kept_count(len(samples), 0.4))
    assert kept(samples, rule(caption_fraction=0.4, instruction_fraction=0.4)) == sorted(expected)
