"""Pairs: the best against the rest, checked by hand; ties, failures and duplicates are counted."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.preference_data.build_pairs import Judged, Pairs
from rsqa_pipeline.preference_data.candidate import Candidate, Subject, pair_split
from rsqa_pipeline.preference_data.judge import Judgement
from rsqa_pipeline.records import read_table
from rsqa_pipeline.scenes.marks import Marks

SUBJECT = Subject("image", "/images/a.png")


def judged(text: str, mark: float | None, source: str = "someone", true_mark: float | None = None) -> Judged:
    judgement = Judgement(None, reason="unparsable", detail="no JSON")
    if mark is not None:
        judgement = Judgement(Marks(mark, mark, mark, mark, mark), true_mark)
    return Judged(Candidate(SUBJECT, text, source), judgement)


def test_best_mean_is_chosen_and_every_other_is_rejected():
    pairs = Pairs("test")
    pairs.add_ranked(
        [judged("b", 2, "B", 2.5), judged("a", 4, "A", 5.0), judged("c", 3, "C")], "caption", "me", "train"
    )
    assert [(p["chosen"], p["rejected"], p["chosen_mark"], p["rejected_mark"]) for p in pairs.rows] == [
        ("a", "b", 4, 2),
        ("a", "c", 4, 3),
    ]
    assert [p["true_margin"] for p in pairs.rows] == [2.5, None]
    assert pairs.rows[0]["chosen_source"] == "A" and pairs.rows[0]["judge"] == "me"
    assert not pairs.quarantine.rows


def test_equal_texts_equal_marks_and_failures_are_quarantined_with_their_reason():
    pairs = Pairs("test")
    candidates = [judged("a", 4), judged("b", 4), judged("a", 4), judged("c", None), judged("d", 1), judged("d", 1)]
    pairs.add_ranked(candidates, "caption", "me", "train")
    assert [(p["chosen"], p["rejected"]) for p in pairs.rows] == [("a", "d")]
    reasons = sorted(row["reason"] for row in pairs.quarantine.rows)
    assert reasons == ["duplicate_pair", "equal_marks", "equal_text", "unparsable"]


def test_no_marks_give_no_pair():
    pairs = Pairs("test")
    pairs.add_ranked([judged("a", None), judged("b", None)], "caption", "me", "train")
    assert not pairs.rows
    assert [row["reason"] for row in pairs.quarantine.rows] == ["unparsable", "unparsable"]


marks = st.one_of(st.none(), st.integers(1, 5))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), marks), min_size=1, max_size=8))
def test_every_candidate_but_the_chosen_one_is_a_pair_or_quarantined(candidates):
    pairs = Pairs("test")
    pairs.add_ranked([judged(text, mark) for text, mark in candidates], "caption", "me", "train")
    any_marked = any(mark is not None for _, mark in candidates)
    assert len(pairs.rows) + len(pairs.quarantine.rows) == len(candidates) - any_marked
    assert all(pair["chosen_mark"] > pair["rejected_mark"] for pair in pairs.rows)
    assert len({pair["pair_id"] for pair in pairs.rows}) == len(pairs.rows)


def test_written_tables_and_their_counts(tmp_path):
    pairs = Pairs("test")
    pairs.add_ranked(
        [judged("a", 4, true_mark=3), judged("b", 2, true_mark=4), judged("c", 1, true_mark=1), judged("d", None)],
        "caption", "me", "heldout",
    )  # fmt: skip
    metrics = pairs.write(tmp_path)
    assert (metrics["input_rows"], metrics["kept_rows"], metrics["quarantined_rows"]) == (3, 2, 1)
    assert (metrics["pairs/caption"], metrics["heldout_pairs"], metrics["quarantined/unparsable"]) == (2, 2, 1)
    # The truth prefers "b" to "a", and "a" to "c": the judge is right on one of two.
    assert (metrics["judge_agreement/caption"], metrics["judge_agreement_pairs/caption"]) == (0.5, 2)
    assert len(read_table(tmp_path / "pairs.parquet")) == 2
    assert read_table(tmp_path / "pairs.parquet")[0]["image"] == "/images/a.png"
    judgements = {row["text"]: row for row in read_table(tmp_path / "judgements.parquet")}
    assert judgements["d"]["relevance"] is None and judgements["a"]["relevance"] == 4
    assert len(read_table(tmp_path / "quarantine.parquet")) == 1


def test_an_image_has_one_split_and_the_heldout_share_is_met():
    splits = [pair_split(f"image-{i}", 0.25, seed=7) for i in range(4000)]
    assert abs(splits.count("heldout") / 4000 - 0.25) < 0.03
    assert splits == [pair_split(f"image-{i}", 0.25, seed=7) for i in range(4000)]
