"""``rsqa curate`` on files: kept rows, reasons of dropped rows, and warnings."""

from __future__ import annotations

import json
import math
import subprocess
import sys
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
from rsqa_pipeline.errors import DataError, UsageError
from rsqa_pipeline.images.decode import content_hash
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.curated_subsets import SubsetRule
from rsqa_pipeline.records import canonical_messages, sha256

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


def test_the_card_names_every_version_of_a_score_file_that_is_never_in_memory_whole(tmp_path):
    """Versions of several row groups, and rows without one."""
    names = pa.array(["b" * 64, "a" * 64, "c" * 64])
    codes = pa.array([0] * 1_000_000 + [None] * 10 + [1] * 10 + [2] * 300_000, pa.int32())
    scores = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"model_version": names.take(codes)}), scores, row_group_size=400_000)
    code = (
        "import sys, pyarrow\n"
        "from pathlib import Path\n"
        "from rsqa_pipeline.cli.curate import _facts\n"
        "from rsqa_pipeline.profile.curated_subsets import SubsetRule\n"
        "facts = _facts(Path(sys.argv[1]), SubsetRule(selector='score_model'), 0)\n"
        "print(facts['version of the score model'])\n"
        "print(pyarrow.default_memory_pool().max_memory())\n"
    )  # in a process of its own, whose greatest memory is that of this call
    done = subprocess.run([sys.executable, "-c", code, str(scores)], capture_output=True, text=True, check=True)
    versions, memory = done.stdout.splitlines()
    assert versions == ", ".join(letter * 64 for letter in "abc")
    assert 0 < int(memory) < 20_000_000 < 64 * len(codes)


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


@pytest.mark.parametrize(
    "text",
    [
        "{selector: score_model, threshold: .nan}",
        "{selector: score_model, threshold: .inf}",
        "[" * 3000,
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: " + "[" + "*c, " * 9000 + "]",
        "{selector: all, selector: random}",
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=["nan", "inf", "deep", "bomb", "repeated key", "not UTF-8"],
)
def test_a_hostile_rule_file_is_one_line(tmp_path, text):
    path = tmp_path / "rule.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_rule(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_scores_of_another_file_are_refused(files, tmp_path):
    data, scores = files
    pq.write_table(pa.table({"key": ["other"], "score": [1.0]}), scores)
    with pytest.raises(UsageError, match="has no score for any row of the data file"):
        curate_data(scores, source(data), BEST_HALF, 0, tmp_path / "out")


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Six captions of six pictures in JSON lines, and their scores as `rsqa score` writes them, rising."""
    rows, scores = [], []
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"id": f"r{number}", "image": f"{number}.png", "text": f"{number} ships"})
        scores.append(
            {
                "key": f"r{number}",
                "score": float(number),
                "image_hash": content_hash(str(tmp_path / f"{number}.png")),
                "text_hash": sha256(canonical_messages([{"role": "assistant", "content": f"{number} ships"}])),
            }
        )
    write_lines(tmp_path / "data.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(scores), tmp_path / "s.parquet")
    return tmp_path / "data.jsonl", tmp_path / "s.parquet"


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def curated(data: Path, scores: Path, out: Path, keep: float = 0.5) -> tuple[Result, list[str]]:
    reply = invoke("--scores", scores, "--data", data, "--format", "jsonl", "--keep", keep, "--out", out)
    return reply, [json.loads(line)["text"] for line in out.read_text().splitlines()]


def lines(data: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in data.read_text().splitlines()]


def test_unchanged_content_is_kept_by_its_score(scored, tmp_path):
    reply, texts = curated(*scored, tmp_path / "o.jsonl")
    assert (reply.exit_code, texts) == (0, ["3 ships", "4 ships", "5 ships"])


def test_an_edited_text_or_another_picture_under_an_id_has_no_score(scored, tmp_path):
    data, scores = scored
    rows = lines(data)
    rows[5]["text"] = "no ships"
    write_lines(data, rows)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "4.png")
    reply, texts = curated(data, scores, tmp_path / "o.jsonl")
    assert reply.exit_code == 3, reply.output
    assert texts == ["2 ships", "3 ships"]  # half of the four that are still what was scored
    assert "2 dropped: stale_score" in reply.stdout


def test_positions_that_moved_do_not_give_a_row_another_rows_score(scored, tmp_path):
    data, scores = scored
    rows = lines(data)
    for row in rows:
        del row["id"]
    write_lines(data, rows)
    keys = pa.array([f"line {number + 1}" for number in range(6)])
    table = pq.read_table(scores)
    pq.write_table(table.set_column(0, "key", keys), scores)
    assert curated(data, scores, tmp_path / "before.jsonl")[1] == ["3 ships", "4 ships", "5 ships"]
    write_lines(data, rows[1:])  # each remaining row now has the key of the row before it
    reply = invoke("--scores", scores, "--data", data, "--format", "jsonl", "--keep", 0.5, "--out", tmp_path / "o")
    assert isinstance(reply.exception, UsageError) and "5 scores are of other content" in str(reply.exception)


def test_scores_of_another_row_count_never_change_the_share(scored, tmp_path):
    """--keep is a share of the scored rows, with the data file and without."""
    data, scores = scored
    write_lines(data, [*lines(data), *({"id": f"n{n}", "image": "0.png", "text": f"new {n}"} for n in range(10))])
    reply, texts = curated(data, scores, tmp_path / "o.jsonl")
    assert (reply.exit_code, texts) == (0, ["3 ships", "4 ships", "5 ships"])
    assert "10 dropped: no_score" in reply.stdout
    assert curate_scores(scores, BEST_HALF, 0, tmp_path / "alone").kept == 3


@pytest.mark.parametrize("kind", ["int64", "dictionary", "large_string", "int32"])
def test_keys_of_any_type_with_ties(tmp_path, kind):
    names = [f"{number:03d}" for number in range(50)]
    keys = {
        "int64": pa.array(range(100, 150), pa.int64()),
        "int32": pa.array(range(100, 150), pa.int32()),
        "dictionary": pa.array(names).dictionary_encode(),
        "large_string": pa.array(names, pa.large_string()),
    }[kind]
    pq.write_table(pa.table({"key": keys, "score": [1.0] * 50}), tmp_path / "s.parquet")
    assert curate_scores(tmp_path / "s.parquet", BEST_HALF, 0, tmp_path / "out").kept == 25
    found = pq.read_table(tmp_path / "out" / "ids.parquet").column("key").to_pylist()
    assert found == [str(key) for key in keys.to_pylist()[:25]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_no_finite_score_is_a_usage_error(scored, tmp_path, value):
    data, scores = scored
    table = pq.read_table(scores)
    pq.write_table(table.set_column(1, "score", pa.array([value] * 6, pa.float64())), scores)
    for more in ([], ["--data", data, "--format", "jsonl"]):
        reply = invoke("--scores", scores, "--keep", 0.5, "--out", tmp_path / "o", *more)
        assert isinstance(reply.exception, UsageError), reply.output


def test_a_score_that_is_not_finite_is_missing(tmp_path):
    pq.write_table(pa.table({"key": list("abcd"), "score": [1.0, math.inf, 2.0, -math.inf]}), tmp_path / "s.parquet")
    done = curate_scores(tmp_path / "s.parquet", BEST_HALF, 0, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "ids.parquet").column("key").to_pylist() == ["a", "c"]
    assert done.dropped == {"no_score": 2}


def test_a_row_without_a_key_is_named(tmp_path):
    pq.write_table(pa.table({"key": ["a", None], "score": [1.0, 2.0]}), tmp_path / "s.parquet")
    with pytest.raises(DataError, match=r"row 1 \(from 0\) has no key"):
        curate_scores(tmp_path / "s.parquet", BEST_HALF, 0, tmp_path / "out")
