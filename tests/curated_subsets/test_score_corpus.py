"""Scoring a corpus: every sample once, in scores or in quarantine, whatever the shards."""

from collections.abc import Sequence

import pytest

from rsqa_pipeline.curated_subsets.score_corpus import score_rows, score_shards
from rsqa_pipeline.models.scoring_group import Group, Score
from rsqa_pipeline.records import read_table, sample_id


class LengthScorer:
    """Scores a text by its length; knows no image named "broken"."""

    version = "length"

    def __init__(self) -> None:
        self.groups = 0
        self.seen: list[tuple[object, str, str]] = []

    def score_or_reason(self, groups: Sequence[Group]) -> list[list[Score]]:
        self.groups += len(groups)
        self.seen += [(g.image, str(g.context), text) for g in groups for text in g.candidates]
        return [[self._score(group, text) for text in group.candidates] for group in groups]

    def _score(self, group: Group, text: str) -> Score:
        if group.image == "broken":
            return Score(None, "undecodable", "not an image")
        return Score(len(text) + 100.0 * len(group.context))


def sample(image: str, *contents: str) -> dict[str, object]:
    """A sample whose last message is the assistant's where the number of messages is odd, or two."""
    roles = ["assistant"] if len(contents) == 1 else ["user", "assistant", "user"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"sample_id": sample_id(image, messages), "image": image, "messages": messages}


ROWS = [
    sample("a", "one"),
    sample("a", "three"),
    sample("b", "one"),
    sample("broken", "one"),
    sample("a", "how many?", "one"),
    sample("a", "how many?", "two", "sure?"),
    sample("broken", "four"),
]


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 100])
def test_kept_and_quarantined_are_the_input(tmp_path, shard_rows):
    score_shards(ROWS, tmp_path, LengthScorer(), "pair_scores", shard_rows)
    scores = read_table(tmp_path / "scores.parquet")
    faults = read_table(tmp_path / "quarantine.parquet")
    assert [(row["sample_id"], row["score"]) for row in scores] == [
        (ROWS[0]["sample_id"], 3.0),
        (ROWS[1]["sample_id"], 5.0),
        (ROWS[2]["sample_id"], 3.0),
        (ROWS[4]["sample_id"], 103.0),
    ]
    assert {row["model_version"] for row in scores} == {"length"}
    reasons = {row["sample_id"]: row["reason"] for row in faults}
    assert reasons == {
        ROWS[3]["sample_id"]: "undecodable",
        ROWS[5]["sample_id"]: "no_answer",
        ROWS[6]["sample_id"]: "undecodable",
    }
    assert {row["stage"] for row in faults} == {"pair_scores"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quarantine.parquet", "scores.parquet"]


def test_texts_of_one_image_and_question_make_one_group_and_are_scored_once():
    scorer = LengthScorer()
    score_rows([*ROWS, ROWS[0]], scorer, "pair_scores")
    # a: captions; b: captions; broken: captions; a: the question.
    assert scorer.groups == 4
    assert len(scorer.seen) == len(set(scorer.seen)) == 6


def test_empty_shard_list_gives_empty_tables(tmp_path):
    score_shards([], tmp_path, LengthScorer(), "clip_scores", 10)
    assert read_table(tmp_path / "scores.parquet") == []
