"""Every row of the table of shapes in docs/own_data.md: what is read, from which image, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_notes import SourceNotes, read_notes
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.documented_shapes import (
    LETTERS,
    SHAPES,
    STORED,
    Build,
    as_json,
    lines,
    parquet,
    read,
    text_file,
    turns,
)
from tests.source_pairs.generated import settings
from tests.source_pairs.test_image_stores import picture

DOCS = Path(__file__).resolve().parents[2] / "docs" / "own_data.md"


@pytest.mark.parametrize(("_name", "build", "kept", "reasons"), SHAPES, ids=[name for name, *_ in SHAPES])
def test_a_documented_shape(_name: str, build: Build, kept: list[str], reasons: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    found, refused = read(build(folder))
    assert (found, sorted(refused)) == (kept, sorted(reasons))


def test_the_table_of_the_docs_lists_the_same_shapes() -> None:
    table = DOCS.read_text(encoding="utf-8").partition("| shape | known from | how it is read | what is refused |\n")[2]
    rows = table.partition("\n\n")[0].splitlines()[1:]
    assert [re.split(r"(?<!\\) \| ", row.removeprefix("| "))[0] for row in rows] == [name for name, *_ in SHAPES]
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)


@pytest.mark.parametrize(
    ("build", "needed"),
    [
        (text_file("rows.csv", "image;text\na.png;one .\n", "csv"), r"one column 'image;text'; set delimiter: \";\""),
        (text_file("rows.csv", "image\ttext\na.png\tone .\n", "csv"), r"set delimiter: \"\\t\""),
        (text_file("rows.csv", "image|text\na.png|one .\n", "csv"), r"set delimiter: \"\|\""),
        (text_file("rows.csv", "image;text;a,b\na.png;one .;1,2\n", "csv"), r"set delimiter: \";\""),
        (text_file("rows.csv", "image,text\na.png,one .\n", "csv", delimiter=";"), r"set delimiter: \",\""),
        (text_file("rows.csv", "image,text,text\na.png,one,two\n", "csv"), "has 2 columns text; rename all but one"),
        (text_file("rows.csv", "path,title\na.png,one .\n", "csv"), r"\['path', 'title'\]; name them in columns:"),
        (text_file("rows.csv", "image,text\n".encode("utf-16-le"), "csv"), "it is in UTF-16LE, not in UTF-8: convert"),
        (text_file("rows.csv", "image,text\na.png,one .\n".encode("utf-16")[:-1], "csv"), "not complete UTF-16"),
        (
            parquet("a.parquet", image=[STORED], title=["one ."]),
            "found image, title; a column of another name",
        ),
        (parquet("a.parquet", picture=[STORED], text=["one ."]), "lacks the column image; found picture, text;"),
        (as_json([{"image": "a.png"}], "karpathy"), "a list of rows is read with format: llava"),
        (as_json({"images": [], "annotations": []}, "nwpu_captions"), "x^"),
        (as_json({"annotations": [], "images": []}, "llava"), "read with format: karpathy, coco or nwpu_captions"),
        (as_json({"images": []}, "coco"), "needs a list 'annotations', found .* read with format: karpathy"),
        (as_json({"airplane": []}, "karpathy"), "read with format: nwpu_captions"),
    ],
)
def test_what_cannot_be_read_names_the_shape_and_the_setting(build: Build, needed: str, tmp_path: Path) -> None:
    if needed == "x^":
        assert read_source(build(tmp_path)) is not None  # lists of no images: nothing to read, and no error
        return
    with pytest.raises(DataError, match=needed) as error:
        list(read_source(build(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_row_that_cannot_be_read_names_the_setting(tmp_path: Path) -> None:
    rows = [{"image": None, "img": "a.png", "text": "one ."}, {"title": "one ."}]
    entries = list(read_source(lines(*rows)(tmp_path)))
    assert [getattr(entry, "reason", None) for entry in entries] == ["no_image", "not_text"]
    assert "columns: {image: NAME}; found image, img, text" in entries[0].detail  # type: ignore[union-attr]
    assert "found image, title; a key of another name is named in columns" in entries[1].detail  # type: ignore[union-attr]
    named = lines(*rows, columns={"image": "img", "text": "title"})(tmp_path)
    assert [getattr(entry, "reason", None) for entry in read_source(named)] == ["not_text", "no_image"]


def test_two_names_of_the_image_have_to_agree(tmp_path: Path) -> None:
    rows = ({"text": "1", "images": ["b.png"]}, {"text": "2", "images": ["a.png"]})
    entries = list(read_source(lines(*rows)(tmp_path)))
    assert [getattr(entry, "reason", None) for entry in entries] == ["no_image", None]


def test_a_run_says_what_was_assumed(tmp_path: Path) -> None:
    prompt = "<image>\nProvide a brief description of the given image."
    rows = [turns(prompt, f"{n} piers") | {"image": f"{n}.png"} for n in range(12)]
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    source = as_json(rows, "llava")(tmp_path)
    test = source.model_copy(update={"path": str(tmp_path / "t.json")})
    profile = settings(tmp_path, captions=source, benchmarks=test)
    (tmp_path / "out").mkdir()
    metrics = image_text_pairs.run({}, tmp_path / "out", profile, SilentLogger())
    assert (metrics["rows_without_split"], metrics["captions_from_prompts"]) == (12, 12)
    split, prompts = read_notes(tmp_path / "out")
    assert "no row names a split; 12 rows are taken as training rows" in split
    assert "12 answers to a known prompt" in prompts
    (tmp_path / "t.json").write_text((tmp_path / "rows.json").read_text())
    (tmp_path / "items").mkdir()
    metrics = benchmark_sets.run({}, tmp_path / "items", profile, SilentLogger())
    assert (metrics["rows_without_split"], metrics["items/retrieval"]) == (12, 10)
    assert "12 rows are taken as test rows" in read_notes(tmp_path / "items")[0]
    notes = SourceNotes("rows.jsonl", "training rows", rows=3, rows_without_split=1)
    assert "1 of 3 rows name no split; 1 rows are taken as training rows" in notes.lines()[0]
    assert not SourceNotes("rows.jsonl", "training rows", rows=3).lines()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (turns("Is there a pier?", "Yes."), ("presence", "Yes.")),
        (turns("How many piers?", "three"), ("count", "three")),
        (turns("More ships than piers?", "no", task="comparison"), ("comparison", "no")),
        (turns("Which?\nA. a pier\nB. a dam\nAnswer with a letter.", "(b)"), None),
        (turns("Which?\nA. a pier\n(B) a dam", "(b)", task="choice"), ("choice", "B")),
        (turns("Which?\nA. a pier\nB. a dam", "a dam", task="choice"), ("choice", "B")),
        (turns("Which?\nA. a pier\nB. a dam", "a ship", task="choice"), None),
        (turns("Which?", "A", task="choice"), None),
        (turns("Where?", "[1, 2, 5, 6]", task="grounding"), ("grounding", "[1, 2, 5, 6]")),
        (turns("Where?", "nowhere", task="grounding"), None),
        (turns("What?", "River", task="classification"), None),  # one class alone cannot be told from others
        (turns("What do you see?", "a long pier"), None),
        (turns("Is there a pier?" + " Look again." * 300, "yes"), None),
        ({"image": "a.png", "conversations": 2 * turns("Is there a pier?", "yes")["conversations"]}, None),
        ({"image": "a.png", "text": "a long pier"}, ("retrieval", None)),
    ],
)
def test_each_benchmark_row_is_an_item_or_a_fault(
    row: dict[str, Any], expected: tuple[str, str | None] | None, tmp_path: Path
) -> None:
    question = turns("Is there a dam?", "no") | {"image": "b.png"}
    source = lines(question, row)(tmp_path)
    (tmp_path / "items").mkdir()
    metrics = benchmark_sets.run({}, tmp_path / "items", settings(tmp_path, benchmarks=source), SilentLogger())
    table = read_table(tmp_path / "items/items.parquet")
    items = [row for row in table if LETTERS[row["image_id"]] == "A" and not row["task"].startswith("reward_")]
    assert metrics["input_rows"] == 2 == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert metrics.get("quarantined/no_item", 0.0) == float(expected is None)
    assert [(item["task"], item["answer"]) for item in items] == ([expected] if expected else [])
    if items and items[0]["task"] == "choice":
        assert (items[0]["question"], items[0]["choices"]) == ("Which?", ["a pier", "a dam"])
    if items and items[0]["task"] == "grounding":
        assert items[0]["boxes"] == [[1, 2, 5, 6]]


def test_a_question_asked_twice_about_an_image_is_one_item(tmp_path: Path) -> None:
    source = lines(*(turns("Is there a dam?", answer) for answer in ("no", "yes", "no")))(tmp_path)
    (tmp_path / "items").mkdir()
    metrics = benchmark_sets.run({}, tmp_path / "items", settings(tmp_path, benchmarks=source), SilentLogger())
    assert (metrics["kept_rows"], metrics["quarantined/no_item"], metrics["items/presence"]) == (1, 2, 1)
