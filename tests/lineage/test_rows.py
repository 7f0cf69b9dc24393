"""The rows behind a model: as the naive way finds them, whatever the tables hold, and as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from rsqa_pipeline.lineage.json_rows import json_with_rows
from rsqa_pipeline.lineage.rows import training_samples
from rsqa_pipeline.lineage.trace import TraceNode
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, SCORED_SAMPLE, SPREAD, TRUTH
from rsqa_pipeline.stages import assets_of
from tests.lineage.naive_rows import naive_samples

TABLES = ("image_text_pairs", "instruction_samples")
SCORES = ("pair_scores", "clip_scores")
SUBSET = "subset_traced"
TEXTS = st.sampled_from(["a ship", "two ships", 'a "quay"', "3", "größer, 50 %", ""])
RULES = st.sampled_from(
    [
        {"selector": "score_model", "caption_fraction": 0.3},
        {"selector": "score_model", "bound": "lower"},
        {"selector": "clip_score", "per": "scene_class", "floor": 1},
        {"selector": "score_model", "per": "image_id", "threshold": 0.0, "max_per_image": 1},
        {"selector": "clip_score", "per": "kind"},
        {"selector": "score_model", "temperature": 0.5},
        {"selector": "blend", "weights": {"score_model": 1.0, "clip_score": 0.5}},
        {"selector": "oracle", "per": "source"},
        {"selector": "random"},
        {"selector": "all"},
        {"any_of": [{"selector": "clip_score", "caption_fraction": 0.2}, {"selector": "random"}]},
        {"all_of": [{"selector": "score_model", "max_per_image": 1}, {"selector": "clip_score", "per": "task"}]},
    ]
)
TEST_SAMPLE = {
    **{"text": "a ship", "original": None, "scene": 2, "split": "test", "scene_class": "harbour"},
    **{"quality": None, "score": -2.25, "clip": 0.0, "kept": False},
}
SAMPLES = st.lists(
    st.fixed_dictionaries(
        {
            "text": TEXTS,
            "original": st.none() | TEXTS,
            "scene": st.integers(0, 3),
            "split": st.sampled_from(["corpus", "corpus", "test"]),
            "scene_class": st.sampled_from(["harbour", "airport", None]),
            "quality": st.sampled_from([1.0, 4.5, None]),
            "score": st.sampled_from([0.1, -2.25, 3.0, float("nan"), None]),
            "clip": st.floats(-1, 1, width=32),
            "kept": st.booleans(),
        }
    ),
    min_size=1,
    max_size=14,
)


def write(path: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema), path, row_group_size=4)


def write_project(
    profile: Profile, drawn: dict[str, list[dict[str, Any]]], lines: list[tuple[int, str]], shuffle: Any
) -> None:
    scored = []
    for table, rows in drawn.items():
        samples, truth = [], []
        for place, row in enumerate(rows):
            number = f"{table[:5]}-{place}"
            image = f"image-{row['scene']}"
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": row["text"]}]
            known = {"sample_id": number, "image_id": image, "split": row["split"], "scene_class": row["scene_class"]}
            known |= {"source": f"writer {place % 2}", "task": "caption", "true_quality": row["quality"]}
            samples.append({**known, "image": f"images/{image}.png", "messages": turns[place % 2 :]})
            truth.append({"sample_id": number, "scene": row["scene"], "original_text": row["original"]})
            if row["split"] == "corpus":
                scored.append({"sample_id": number, **row})
        folder = assets_of(profile)[table].folder(profile)
        write(folder / "samples.parquet", IMAGE_TEXT_SAMPLE, samples)
        write(folder / "truth.parquet", TRUTH, shuffle(truth))
    for name, column in zip(SCORES, ("score", "clip"), strict=True):
        found = [
            {"sample_id": row["sample_id"], "score": row[column], "model_version": f"{name} {place % 2}", "spread": 0.5}
            for place, row in enumerate(scored)
            if row[column] is not None  # a sample without a row in the scores
        ]
        schema = SCORED_SAMPLE.append(SPREAD) if name == "pair_scores" else SCORED_SAMPLE
        write(assets_of(profile)[name].folder(profile) / "scores.parquet", schema, shuffle(found))
    kept = [{"sample_id": row["sample_id"]} for row in scored if row["kept"]]
    write(assets_of(profile)[SUBSET].folder(profile) / "ids.parquet", pa.schema([("sample_id", pa.string())]), kept)
    pd.DataFrame(lines, columns=["scene", "caption"]).to_csv("captions.csv", index=False)
    named = [(f"image-{scene}.png", text) for scene, text in lines]
    pd.DataFrame(named, columns=["image", "text"]).to_csv("instructions.csv", index=False)


def traced_profile(rule: dict[str, Any], read_from: str) -> Profile:
    """The demo with one subset; its captions are of a file of scenes or generated, its instructions of a CSV file."""
    profile = load_profile("demo")
    rules = {**profile.curated_subsets.subsets, "traced": SubsetRule.model_validate(rule)}
    subsets = profile.curated_subsets.model_copy(update={"subsets": rules})
    captions = profile.source_pairs.captions
    path = {"path": "captions.csv"} if read_from == "a file" else {"path": None}
    other = captions.model_copy(update={"format": "csv", "path": "instructions.csv"})
    sources = profile.source_pairs.model_copy(
        update={"captions": captions.model_copy(update={"format": "scenes", **path}), "instructions": other}
    )
    return profile.model_copy(update={"curated_subsets": subsets, "source_pairs": sources})


def root_of(tables: list[str]) -> TraceNode:
    """A model trained on the captions or instructions, or both, of the subset."""
    nodes = {name: TraceNode(name, "v", "matches", {"kind": "asset"}) for name in (*TABLES, *SCORES)}
    subset = TraceNode(SUBSET, "v", "matches", {"kind": "asset"}, list(nodes.values()))
    return TraceNode("vlm_traced", "v", "matches", {"kind": "asset"}, [subset, *(nodes[name] for name in tables)])


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking files takes minutes
@example(
    drawn={table: [TEST_SAMPLE] for table in TABLES},  # a corpus without samples
    lines=[],
    rule={"selector": "oracle"},
    read_from="nothing",
    tables=list(TABLES),
    backwards=False,
)
@given(
    drawn=st.fixed_dictionaries(dict.fromkeys(TABLES, SAMPLES)),
    lines=st.lists(st.tuples(st.integers(0, 3), TEXTS), max_size=10),
    rule=RULES,
    read_from=st.sampled_from(["a file", "nothing"]),
    tables=st.sampled_from([[TABLES[0]], list(TABLES)]),
    backwards=st.booleans(),
)
def test_rows_are_those_of_the_naive_way(
    drawn: dict[str, list[dict[str, Any]]],
    lines: list[tuple[int, str]],
    rule: dict[str, Any],
    read_from: str,
    tables: list[str],
    backwards: bool,
) -> None:
    """Also the types of the columns, whatever order scores and truth stand in."""
    profile, before = traced_profile(rule, read_from), Path.cwd()
    with TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            write_project(profile, drawn, lines, lambda rows: rows[::-1] if backwards else rows)
            found, naive = training_samples(profile, root_of(tables)), naive_samples(profile, SUBSET, tables)
        finally:
            os.chdir(before)
    if len(naive):
        pd.testing.assert_frame_equal(found, naive)
    assert len(found) == len(naive)
    rows = json.loads(naive.to_json(orient="records", double_precision=15))
    text = json.dumps({"samples": rows, "pairs": [], "rows": "x"}, indent=1, sort_keys=True)
    assert "".join(json_with_rows({"rows": "x"}, {"samples": found, "pairs": pd.DataFrame()})) == text


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_json_of_odd_values_is_that_of_the_json_module(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsqa_pipeline.lineage.json_rows._BATCH_ROWS", batch)
    table = pd.DataFrame(
        {
            "100 %s": [1, 2, 3],
            'a "name"': ["line\nbreak", None, '\n "zeta": []'],
            "number": [1 / 3, float("nan"), 1e-9],
            "small": pd.array([0.1, 2.0, None], dtype="float32"),
            "mixed": pd.Series(["row 1", None, "é"], dtype="object"),
            "yes": [True, False, True],
        }
    )
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    text = json.dumps({"alpha": {"zeta": []}, "zeta": rows, "other": rows[:1]}, indent=1, sort_keys=True)
    assert "".join(json_with_rows({"alpha": {"zeta": []}}, {"zeta": table, "other": table[:1]})) == text
