"""Selection from a score file equals the selection in memory, with the same reasons."""

import tempfile
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.curated_subsets.selection.apply_rule import apply_rule
from rsqa_pipeline.curated_subsets.selection.apply_rule_streaming import MAX_GROUPS, apply_rule_streaming
from rsqa_pipeline.curated_subsets.selection.explain import dropped_rows
from rsqa_pipeline.curated_subsets.selection.score_reader import ScoreTable, nth_smallest_id, sortable_codes
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile.curated_subsets import SubsetRule

numbers = st.one_of(st.none(), st.sampled_from([-0.0, 0.0, 1.0, -1.0, float("inf")]), st.floats(-50, 50, width=32))
rows = st.lists(
    st.tuples(
        numbers,
        numbers,
        st.sampled_from(["caption", "instruction"]),
        st.sampled_from(["port", "farm", None]),
        st.sampled_from(["a.jpg", "b.jpg", None]),
        st.one_of(st.none(), st.floats(0, 20, width=32)),
    ),
    min_size=1,
    max_size=50,
)
simple = st.fixed_dictionaries(
    {"selector": st.sampled_from(["all", "random", "score_model", "clip_score"])},
    optional={
        "caption_fraction": st.floats(0.01, 1),
        "instruction_fraction": st.floats(0.01, 1),
        "per": st.just("scene_class"),
    },
)
scored = st.fixed_dictionaries(
    {"selector": st.sampled_from(["score_model", "clip_score"]), "per": st.just("scene_class")},
    optional={
        "caption_fraction": st.floats(0.01, 1),
        "threshold": st.floats(-50, 50),
        "temperature": st.sampled_from([0.5, 20.0]),
        "floor": st.integers(0, 3),
        "max_per_image": st.integers(1, 3),
    },
)
one = st.one_of(simple, scored)
bounded = st.builds(
    lambda fields: {**fields, "selector": "score_model", "bound": "lower"},
    scored,
)
rules = st.one_of(
    one,
    bounded,
    st.builds(
        lambda name, parts: {name: parts}, st.sampled_from(["all_of", "any_of"]), st.lists(one, min_size=1, max_size=3)
    ),
)


def frame_of(drawn: list[tuple], prefix: str = "sample") -> pd.DataFrame:
    """Ids with common prefixes, of several lengths, not in order."""
    ids = [f"{prefix}{'ü' * (number % 3)}{(number * 7) % 53}" for number in range(len(drawn))]
    frame = pd.DataFrame(drawn, columns=["score_model", "clip_score", "kind", "scene_class", "image_hash", "spread"])
    return frame.assign(sample_id=ids).astype({"score_model": float, "clip_score": float, "spread": float})


def write(frame: pd.DataFrame, path: Path) -> Path:
    schema = pa.schema(
        [("sample_id", pa.string()), ("kind", pa.string()), ("scene_class", pa.string()), ("image_hash", pa.string())]
        + [(name, pa.float64()) for name in ("score_model", "clip_score", "spread")]
    )
    pq.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False), path, row_group_size=11)
    return path


@settings(deadline=None, max_examples=120)
@given(rows, rules, st.integers(1, 60))
def test_streaming_equals_in_memory(drawn, fields, batch_rows):
    frame, rule = frame_of(drawn), SubsetRule.model_validate(fields)
    decisions = apply_rule(frame, rule, 5)
    with tempfile.TemporaryDirectory() as folder:
        table = ScoreTable(write(frame, Path(folder) / "scores.parquet"), batch_rows)
        selected = apply_rule_streaming(table, rule, 5, Path(folder) / "scratch")
        assert selected.kept.tolist() == decisions["kept"].tolist()
        explained = [row for batch in selected.explain(~selected.kept) for row in batch.to_pylist()]
    assert sorted(explained, key=itemgetter("key")) == dropped_rows(frame, decisions)


@settings(deadline=None, max_examples=60)
@given(st.sets(st.text("ab\u00fc\U0001f6a2/", max_size=6), min_size=1, max_size=30), st.data(), st.integers(1, 40))
def test_nth_smallest_id_equals_sorting(ids, data, max_in_memory):
    count = data.draw(st.integers(1, len(ids)))
    names = list(ids)
    batches = [pa.array(names[start : start + 4], pa.string()) for start in range(0, len(names), 4)]
    assert nth_smallest_id(lambda: iter(batches), count, max_in_memory) == sorted(names)[count - 1]


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_sortable_codes_keep_the_order(values):
    keys = np.array(values) + 0.0
    codes = sortable_codes(np.append(keys, np.nan))
    assert codes[-1] == 0 and (codes[:-1] > 0).all()
    assert ((codes[:-1, None] < codes[None, :-1]) == (keys[:, None] < keys[None, :])).all()


def test_diverse_rule_equals_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    frame = frame_of([(float(rng.normal()), None, "caption", "port", None, 0.5) for _ in range(40)])
    file = tmp_path / "embeddings.parquet"
    vectors = rng.normal(size=(40, 3))
    pq.write_table(pa.table({"key": frame["sample_id"].tolist(), "embedding": vectors.tolist()}), file)
    fields = {"caption_fraction": 0.2, "instruction_fraction": 0.2, "diverse": {"embeddings": str(file), "top": 0.5}}
    rule = SubsetRule.model_validate({"selector": "score_model", **fields})
    selected = apply_rule_streaming(ScoreTable(write(frame, tmp_path / "s.parquet"), 7), rule, 0, tmp_path / "scratch")
    decisions = apply_rule(frame, rule, 0)
    assert selected.kept.tolist() == decisions["kept"].tolist() and selected.kept.sum() == 8
    explained = [row for batch in selected.explain(~selected.kept) for row in batch.to_pylist()]
    assert sorted(explained, key=itemgetter("key")) == dropped_rows(frame, decisions)


def test_folder_of_shards_is_read_as_one_file(tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        part = {"key": [f"{shard}{number}" for number in range(10)], "score": np.arange(10, dtype=np.float32)}
        pq.write_table(pa.table(part), tmp_path / "shards" / f"{shard}.parquet")
    rule = SubsetRule(selector="score_model", caption_fraction=0.1, instruction_fraction=0.1)
    selected = apply_rule_streaming(ScoreTable(tmp_path / "shards"), rule, 0, tmp_path / "scratch")
    assert np.flatnonzero(selected.kept).tolist() == [9, 19, 29]
    explained = next(iter(selected.explain(~selected.kept)))
    assert {(row["rule"], row["kind"]) for row in explained.to_pylist()} == {("score_model: best 10%", None)}


def test_unsuitable_files_are_refused(tmp_path):
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"key": [str(n) for n in range(300)], "score": [0.5] * 300}), path)
    table = ScoreTable(path)
    with pytest.raises(DataError, match="'clip_score'; the score file has key, score"):
        apply_rule_streaming(table, SubsetRule(selector="clip_score"), 0, tmp_path)
    with pytest.raises(DataError, match="no column kind"):
        apply_rule_streaming(table, SubsetRule(selector="score_model", caption_fraction=0.3), 0, tmp_path)
    with pytest.raises(DataError, match=f"more than {MAX_GROUPS} groups"):
        apply_rule_streaming(table, SubsetRule(selector="score_model", per="key"), 0, tmp_path)
    with pytest.raises(DataError, match="rsqa score"):
        ScoreTable(tmp_path / "none.parquet")
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a Parquet file"):
        ScoreTable(path)
    pq.write_table(pa.table({"score": [0.5]}), path)
    with pytest.raises(DataError, match="needs a column key or sample_id; it has score"):
        ScoreTable(path)
