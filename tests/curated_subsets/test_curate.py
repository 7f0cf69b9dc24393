"""``rsqa curate`` on files: kept rows, reasons of dropped rows, and warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from rsqa_pipeline.cli.main import app
from rsqa_pipeline.curated_subsets.selection.score_file import curate_data, curate_scores, read_rule
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule

BEST_HALF = SubsetRule(selector="score_model", caption_fraction=0.5, instruction_fraction=0.5)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A LLaVA file of ten answers, one repeated, and a broken row; scores of nine of them and of another file."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = []
    for number in range(10):
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "ships " * (number + 1)}]
        rows.append({"id": f"r{number}", "image": "a.png", "conversations": turns})
    rows += [rows[0], {"id": "bad", "image": "a.png", "conversations": "none"}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    scores = {"key": [*(f"r{number}" for number in range(9)), "x"], "score": [*range(9), 99]}
    pq.write_table(pa.table(scores, pa.schema([("key", pa.string()), ("score", pa.float32())])), tmp_path / "s.parquet")
    return tmp_path / "data.json", tmp_path / "s.parquet"


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, ["curate", *map(str, args)])


def source(path: Path) -> SourceFile:
    return SourceFile.model_validate({"format": "llava", "path": str(path)})


def test_best_half_of_a_file_and_reasons_of_the_rest(files, tmp_path):
    data, scores = files
    done, keys = curate_data(scores, source(data), BEST_HALF, 0, tmp_path / "out")
    assert keys == {"r4", "r5", "r6", "r7", "r8"}
    assert done.kept == 5
    assert done.dropped == {"outside_top": 4, "no_score": 1, "duplicate_id": 1, "bad_turns": 1}
    rows = pq.read_table(tmp_path / "out" / "explained.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["r0", "r1", "r2", "r3", "r9", "r0", "bad"]
    explained = {row["key"]: row for row in rows[:5]}
    assert (explained["r3"]["rank"], explained["r9"]["rank"]) == (6, None)
    assert explained["r3"]["rule"] == "score_model: best 50% of instructions"
    lengths = {row["value"]: row["kept"] for row in done.shares if row["by"] == "words"}
    assert lengths == {"up to 5": 1, "6 to 10": 4}
    rule = json.loads((tmp_path / "out" / "rule.json").read_text())
    assert rule["rule"] == {"selector": "score_model", "caption_fraction": 0.5, "instruction_fraction": 0.5}
    assert (rule["kept"], rule["dropped"]) == (5, done.dropped)


def test_scores_without_data_give_the_same_ids_and_reasons(files, tmp_path):
    data, scores = files
    pq.write_table(pq.read_table(scores)[:9], scores)
    streamed = curate_scores(scores, BEST_HALF, 0, tmp_path / "streamed")
    assert streamed.kept == 5 and streamed.dropped == {"outside_top": 4}
    ids = pq.read_table(tmp_path / "streamed" / "ids.parquet").column("key").to_pylist()
    assert ids == ["r4", "r5", "r6", "r7", "r8"]
    _, keys = curate_data(scores, source(data), BEST_HALF, 0, tmp_path / "whole")
    assert keys == set(ids)
    one, other = (
        {row["key"]: row["reason"] for row in pq.read_table(tmp_path / name / "explained.parquet").to_pylist()}
        for name in ("streamed", "whole")
    )
    assert other == {**one, "r9": "no_score", "r0": "duplicate_id", "bad": "bad_turns"}
    assert sorted(path.name for path in (tmp_path / "streamed").iterdir()) == [
        "explained.parquet",
        "ids.parquet",
        "rule.json",
        "shares.json",
    ]


def test_vanished_class_is_reported(tmp_path):
    table = {"key": list("abcd"), "score": [4.0, 3.0, 2.0, 1.0], "scene_class": ["port", "port", "farm", "farm"]}
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    out = tmp_path / "kept.parquet"
    reply = invoke("--scores", tmp_path / "s.parquet", "--keep", 0.5, "--out", out)
    assert reply.exit_code == 0, reply.output
    assert pq.read_table(out).column("key").to_pylist() == ["a", "b"]
    assert "WARNING: nothing is left of scene_class 'farm' (2 samples)" in " ".join(reply.stderr.split())
    assert "NOTHING KEPT" in reply.stdout
    shares = json.loads((tmp_path / "kept.parquet.curation" / "shares.json").read_text())
    assert {row["value"]: row["vanished"] for row in shares} == {"port": False, "farm": True}
    (tmp_path / "rule.yaml").write_text(
        "{selector: score_model, caption_fraction: 0.5, instruction_fraction: 0.5, per: scene_class}"
    )
    reply = invoke("--scores", tmp_path / "s.parquet", "--rule", tmp_path / "rule.yaml", "--out", out)
    assert pq.read_table(out).column("key").to_pylist() == ["a", "c"] and "WARNING" not in reply.stderr


def test_export_contains_the_kept_rows(files, tmp_path):
    data, scores = files
    out = tmp_path / "best.json"
    reply = invoke("--scores", scores, "--data", data, "--format", "llava", "--keep", 0.5, "--out", out)
    assert reply.exit_code == 0, reply.output
    rows = json.loads(data.read_text())
    assert json.loads(out.read_text()) == [row for row in rows if row["id"] in {"r4", "r5", "r6", "r7", "r8"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --keep"),
        (["--keep", "0.3", "--rule", "r.yaml"], "give either --keep"),
        (["--keep", "0"], "needs a share above 0"),
        (["--keep", "30"], "needs a share above 0 and up to 1"),
        (["--rule", "none.yaml"], "cannot be read"),
    ],
)
def test_invalid_options_are_refused(files, tmp_path, options, message):
    reply = invoke("--scores", files[1], "--out", tmp_path / "o.parquet", *options)
    assert reply.exit_code == 1 and message in str(reply.exception)


def test_rule_file_reports_all_faults(tmp_path):
    path = tmp_path / "rule.yaml"
    path.write_text(yaml.safe_dump({"selector": "best", "caption_fraction": 3, "flor": 1}))
    with pytest.raises(DataError, match=r"selector: .*caption_fraction: .*flor: ") as caught:
        read_rule(path)
    assert str(path) in str(caught.value)
    path.write_text("{selector: all, floor: 2}")
    with pytest.raises(DataError, match="floor needs per"):
        read_rule(path)


def test_scores_of_another_file_are_refused(files, tmp_path):
    data, scores = files
    pq.write_table(pa.table({"key": ["other"], "score": [1.0]}), scores)
    with pytest.raises(DataError, match="has no score for any row of the data file"):
        curate_data(scores, source(data), BEST_HALF, 0, tmp_path / "out")
