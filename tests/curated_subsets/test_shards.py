"""One table of scores: every row once, with any shards; reuse of the previous table."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.curated_subsets.scoring.earlier_scores import SeenIds, short_version
from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.sealed_table import write_sealed
from rsqa_pipeline.curated_subsets.scoring.shards import ScoreCounts, ScoreRow, quarantine_path, score_table
from rsqa_pipeline.curated_subsets.scoring.worker import FILE_SCORE, score_rows
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.models.scoring_group import Score, ScoringGroup
from rsqa_pipeline.source_pairs.source_row import RowFault
from tests.curated_subsets.counting_scorer import CountingSpec, passes

NEW = "2" * 64
ROLES = (["assistant"], ["user", "assistant"], ["user", "assistant", "user"])


def row(key: str, image: str | None, *contents: str) -> ScoreRow:
    roles = ROLES[len(contents) - 1]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return ScoreRow(key, image, messages)  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def spec(tmp_path: Path) -> CountingSpec:
    return CountingSpec(tmp_path / "log.txt")


def run(rows: Sequence[ScoreRow | RowFault], spec: CountingSpec, out: Path, shard_rows: int = 3) -> ScoreCounts:
    return score_table(iter(rows), spec, out, "score", shard_rows, Engine())


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def scored_texts(spec: CountingSpec) -> list[str]:
    return [text for _, text in passes(spec.log)]


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 100])
def test_scored_and_quarantined_rows_are_the_input_in_order(spec, image, tmp_path, shard_rows):
    rows = [
        row("a", image, "one"),
        row("b", image, "three"),
        RowFault("c", "no_image", "none given"),
        row("d", str(tmp_path / "gone.png"), "one"),
        row("a", image, "four"),
        row("e", image, "how many?", "text 10"),
        row("f", image, "how many?", "two", "sure?"),
        row("g", image, " "),
        row("h\udc80", image, "five"),
        row("i", "b\udc80.png", "five"),
        row("j", None, "six"),
        row("k", image, "nothing"),
    ]
    result = run(rows, spec, tmp_path / "out.parquet", shard_rows)
    scores, faults = table(tmp_path / "out.parquet"), table(quarantine_path(tmp_path / "out.parquet"))
    assert [found["key"] for found in scores] == ["a", "b", "e", "j"]
    assert [
        (fault["sample_id"], fault["reason"]) for fault in sorted(faults, key=lambda fault: fault["sample_id"])
    ] == [
        ("a", "duplicate_id"),
        ("c", "no_image"),
        ("d", "missing_image"),
        ("f", "no_answer"),
        ("g", "empty_text"),
        ("h\\udc80", "not_utf8"),
        ("i", "not_utf8"),
        ("k", "not_finite"),
    ]
    assert result.rows == 4 and result.quarantined.total() == 8 and result.quarantined["not_utf8"] == 2
    assert result.notes == {"text_cut": 1}
    assert [found["note"] for found in scores] == [None, None, "text_cut", None]
    assert len({found["image_hash"] for found in scores[:3]}) == 1 and scores[3]["image_hash"] is None
    assert len({found["text_hash"] for found in scores}) == 4
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.parquet", "out.quarantine.parquet"]


def test_no_rows_give_empty_tables(spec, tmp_path):
    assert run([], spec, tmp_path / "out.parquet") == ScoreCounts()
    assert pq.read_schema(tmp_path / "out.parquet").equals(FILE_SCORE)
    assert run([], spec, tmp_path / "out.parquet") == ScoreCounts()  # an empty previous table has no effect


class LengthScorer:
    """Scores a text by its length and the length of its context."""

    def __init__(self) -> None:
        self.groups: list[ScoringGroup] = []

    def score_or_reason(self, groups: Sequence[ScoringGroup]) -> list[list[Score]]:
        self.groups += groups
        return [[Score(len(text) + 100.0 * len(group.context)) for text in group.candidates] for group in groups]


def test_texts_of_one_image_and_question_form_one_group_and_are_scored_once():
    scorer = LengthScorer()
    samples = [("a", "one"), ("a", "three"), ("b", "one"), ("a", "how many?", "one"), ("a", "one")]
    rows = [{**vars(row("", *sample)), "text_hash": ""} for sample in samples]
    assert [score.value for score in score_rows(rows, scorer)] == [3, 5, 3, 103, 3]
    assert [(group.image, group.candidates) for group in scorer.groups] == [
        ("a", ["one", "three"]),
        ("b", ["one"]),
        ("a", ["one"]),
    ]


def test_grown_corpus_only_scores_its_new_rows(spec, image, tmp_path):
    rows = [row(f"old{n}", image, f"text {n}") for n in range(7)]
    run(rows, spec, tmp_path / "out.parquet")
    before = {found["text_hash"]: found for found in table(tmp_path / "out.parquet")}
    spec.log.unlink()
    grown = [row("new", image, "new text"), *(replace(old, key=f"other {old.key}") for old in rows[1:])]
    run(grown, spec, tmp_path / "out.parquet", shard_rows=2)
    after = table(tmp_path / "out.parquet")
    assert scored_texts(spec) == ["new text"]
    assert [found["key"] for found in after] == ["new", *(f"other old{n}" for n in range(1, 7))]
    for found in after[1:]:
        assert {**found, "key": ""} == {**before[found["text_hash"]], "key": ""}


def test_changed_text_or_image_bytes_are_scored_again(spec, image, tmp_path):
    rows = [row("a", image, "one"), row("b", str(tmp_path / "b.png"), "two"), row("c", image, "three")]
    shutil.copy(image, tmp_path / "b.png")
    run(rows, spec, tmp_path / "out.parquet")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    run([*rows[:2], row("c", image, "how many?", "three")], spec, tmp_path / "out.parquet")
    assert sorted(scored_texts(spec)) == ["one", "three", "three", "two", "two"]


def test_new_model_keeps_the_old_scores_and_nothing_is_scored_twice(spec, image, tmp_path):
    out = tmp_path / "out.parquet"
    rows = [row(f"r{n}", image, f"text {n}") for n in (10, 11, 12)]
    run(rows, spec, out)
    old = table(out)
    new = replace(spec, version=NEW)
    run([*rows, row("r13", image, "text 13")], new, out)
    wide = table(out)
    first = short_version(spec.version)
    assert {found["model_version"] for found in wide} == {NEW}
    assert [found[f"score@{first}"] for found in wide] == [*(found["score"] for found in old), None]
    assert [found[f"note@{first}"] for found in wide] == ["text_cut", None, None, None]
    assert all(found["score"] != found[f"score@{first}"] for found in wide)
    assert len(scored_texts(spec)) == 7
    run(rows, replace(spec, version="3" * 64), out)
    third = table(out)
    assert {f"score@{first}", f"score@{short_version(NEW)}"} < set(third[0])
    spec.log.unlink()
    run(rows, spec, out)  # the first model again: all scores are known
    assert scored_texts(spec) == []
    back = table(out)
    assert [{name: found[name] for name in FILE_SCORE.names} for found in back] == old
    assert f"score@{first}" not in back[0] and back[0][f"score@{short_version(NEW)}"] == wide[0]["score"]


def test_a_reused_score_keeps_its_spread(spec, image, tmp_path):
    out = tmp_path / "scores.parquet"
    with_heads = replace(spec, spread=0.25)
    run([row("a", image, "one")], with_heads, out)
    run([row("a", image, "one"), row("b", image, "two")], with_heads, out)
    assert scored_texts(spec) == ["one", "two"]
    assert [found["spread"] for found in table(out)] == [0.25, 0.25]
    run([row("a", image, "one")], replace(spec, version=NEW), out)
    assert [found["spread"] for found in table(out)] == [None], "a model without heads has no spread"
    run([row("a", image, "one")], spec, out)
    assert [found["spread"] for found in table(out)] == [None], "only the newest model's spread is kept"


def test_a_table_of_an_older_version_without_spreads_is_reused(spec, image, tmp_path):
    out = tmp_path / "scores.parquet"
    run([row("a", image, "one")], spec, out)
    older = pq.read_table(out).drop_columns("spread")
    write_sealed(out, older.schema, older.to_pylist())
    run([row("a", image, "one"), row("b", image, "two")], spec, out)
    assert scored_texts(spec) == ["one", "two"]
    assert [found["spread"] for found in table(out)] == [None, None]


def test_variants_of_one_model_have_separate_columns():
    assert (
        short_version("5be1c0d2a9f4e701.windowed_mean")
        == "5be1c0d2a9f4.windowed_mean"
        != short_version("5be1c0d2a9f4e701")
    )


def test_quarantined_rows_are_tried_again(spec, tmp_path):
    late = row("a", str(tmp_path / "late.png"), "one")
    assert run([late], spec, tmp_path / "out.parquet").quarantined == {"missing_image": 1}
    Image.new("RGB", (8, 8)).save(tmp_path / "late.png")
    assert run([late], spec, tmp_path / "out.parquet") == ScoreCounts(1)


def test_foreign_table_is_not_overwritten(spec, image, tmp_path):
    pq.write_table(pa.table({"key": ["a"], "score": [1.0]}), tmp_path / "out.parquet")
    with pytest.raises(DataError, match="lacks image_hash, model_version, note, text_hash; choose another path"):
        run([row("a", image, "one")], spec, tmp_path / "out.parquet")
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(DataError, match="not a Parquet file"):
        run([row("a", image, "one")], spec, tmp_path / "out.parquet")


@settings(max_examples=30, deadline=None)
@given(keys=st.lists(st.text(max_size=3), max_size=40))
def test_seen_ids_behave_like_a_set(tmp_path_factory, keys):
    seen = SeenIds(tmp_path_factory.mktemp("ids") / "ids.sqlite")
    known: set[str] = set()
    for key in keys:
        assert seen.add(key) is (key not in known)
        known.add(key)
    seen.close()


def test_second_run_on_one_table_is_refused_while_the_first_writes(spec, image, tmp_path):
    out = tmp_path / "scores.parquet"

    def rows():
        yield row("a", image, "one")
        with pytest.raises(DataError, match="another run"):
            run([row("a", image, "one")], spec, out)
        yield row("b", image, "two")

    assert score_table(rows(), spec, out, "score", 1, Engine()).rows == 2
    assert run([row("a", image, "one")], spec, out).rows == 1  # afterwards it is allowed
