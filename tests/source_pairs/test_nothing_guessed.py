"""Rows that can be read in two ways are refused and counted; none is read in one of them without a word."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.curated_subsets.export import export
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.preference_data.importers.add_imports import IMPORTERS
from rsqa_pipeline.preference_data.importers.imported_pair import ImportedPair
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.profile.preference_data import PairFile
from rsqa_pipeline.source_pairs.evaluation.read_evaluation import read_evaluation
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_notes import SourceNotes
from rsqa_pipeline.source_pairs.source_row import RowFault, SourceRow
from tests.source_pairs.test_published_shapes import A, write_members


def read(form: str, path: Path, **options: Any) -> tuple[list[str], list[str]]:
    """The last texts of the rows that are read, and the reasons of the others."""
    entries = list(read_evaluation(SourceFile(format=form, path=str(path), **options)))  # type: ignore[arg-type]
    texts = [entry.messages[-1]["content"] for entry in entries if isinstance(entry, SourceRow)]
    return texts, [entry.reason for entry in entries if isinstance(entry, RowFault)]


def json_file(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


TWICE = {
    "llava": '[{"image": "a.png", "image": "b.png", "conversations": [{"from": "gpt", "value": "x"}]}, GOOD]',
    "karpathy": '{"images": [{"filename": "a.png", "split": "test", "split": "train"}, GOOD]}',
    "nwpu_captions": '{"port": [{"filename": "a.png", "split": "test", "raw": "x", "raw": "y"}, GOOD]}',
    "coco": '{"images": [{"id": 1, "id": 2, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}], '
    '"annotations": [{"image_id": 3, "caption": "x", "caption": "y"}, GOOD]}',
}
GOOD: dict[str, Any] = {
    "llava": {"image": "a.png", "conversations": [{"from": "gpt", "value": "good"}]},
    "karpathy": {"filename": "a.png", "split": "train", "sentences": [{"raw": "good"}]},
    "nwpu_captions": {"filename": "a.png", "split": "train", "raw": "good"},
    "coco": {"id": 5, "image_id": 3, "caption": "good"},
}


@pytest.mark.parametrize("form", TWICE)
def test_a_key_twice_is_a_fault_of_its_entry_alone(form: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / "rows.json", TWICE[form].replace("GOOD", json.dumps(GOOD[form])))
    texts, faults = read(form, path)
    assert texts == ["good"] and set(faults) == {"bad_row"}


@pytest.mark.parametrize("form", TWICE)
def test_an_export_goes_on_behind_an_entry_with_a_key_twice(form: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / "rows.json", TWICE[form].replace("GOOD", json.dumps(GOOD[form])))
    source = SourceFile(format=form, path=str(path))  # type: ignore[arg-type]
    kept = [entry.key for entry in read_source(source) if isinstance(entry, SourceRow)]
    export(source, kept, tmp_path / "out.json", "same", {})
    assert read(form, tmp_path / "out.json", images=str(tmp_path)) == (["good"], [])


def test_a_list_twice_is_an_error(tmp_path: Path) -> None:
    path = json_file(tmp_path / "rows.json", '{"images": [], "images": []}')
    with pytest.raises(DataError, match="the list 'images' stands twice"):
        read("karpathy", path)


WIDE = ("utf-32", "utf-32-le", "utf-32-be", "utf-16-be")
FILES = {
    "csv": ("rows.csv", "image,text\na.png,one\n"),
    "jsonl": ("rows.jsonl", '{"image": "a.png", "text": "one"}\n'),
    "llava": ("the rows.json", json.dumps([{"image": "a.png", "conversations": [{"from": "gpt", "value": "one"}]}])),
}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("encoding", WIDE)
def test_the_command_that_an_error_gives_makes_the_file_readable(form: str, encoding: str, tmp_path: Path) -> None:
    name, text = FILES[form]
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match="convert it with") as error:
        read(form, tmp_path / name)
    found = re.search(r"convert it with (iconv .*)", str(error.value))
    assert found is not None
    subprocess.run(found[1], shell=True, check=True)
    new = (tmp_path / name).with_suffix(f".utf-8{Path(name).suffix}")
    assert read(form, new) == (["one"], [])


def test_a_name_of_two_splits_is_reported() -> None:
    (line,) = SourceNotes("data/train_test.jsonl", "training rows", rows=2, rows_without_split=2).lines()
    assert "the name states test and train, of which none is used" in line


def links(folder: Path) -> Path:
    (folder / "Lake").mkdir()
    (folder / "Lake/a.png").write_bytes(A)
    (folder / "Sea").symlink_to("Lake")
    (folder / "Lake/gone.png").symlink_to("nothing.png")
    os.mkfifo(folder / "Lake/pipe.png")
    return folder


def compressed(folder: Path) -> Path:
    write_members(folder / "0.tar", ("x.png", A), ("x.txt", b"one"))
    (folder / "1.tar.gz").write_bytes(gzip.compress((folder / "0.tar").read_bytes()))
    return folder


def parquet(folder: Path) -> Path:
    stored = {"bytes": A, "path": "a.png"}
    part: Callable[[str], str] = lambda name: json.dumps(  # noqa: E731
        [{"role": "user", "content": [{"type": "image", "image": name}]}, {"role": "assistant", "content": name}]
    )
    rows = [
        {"image": stored, "messages": part(name), "split": 0 if name == "0" else None} for name in ("a.png", "b", "0")
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def jsonl(*rows: dict[str, Any]) -> Callable[[Path], Path]:
    text = "\n".join(json.dumps({"image": "a.png", "text": "one", **row}) for row in rows)
    return lambda folder: json_file(folder / "rows.jsonl", text)


def karpathy(**facts: Any) -> Callable[[Path], Path]:
    image = {"filename": "a.png", "split": "train", "sentences": [{"raw": "one", "sentid": None}], **facts}
    return lambda folder: json_file(folder / "rows.json", {"images": [image]})


def rsvqa(folder: Path) -> Path:
    asked = {"img_id": 1, "type": "presence", "question": "Is there a road?"}
    questions = [{**asked, "id": n, "answers_ids": ids} for n, ids in enumerate(([1], [2], [True], [[]], [4]))]
    answers = [{"id": 1, "question_id": 0, "answer": "yes"}, {"id": 2, "question_id": 7, "answer": "no"}]
    answers += [{"id": [], "answer": "yes"}, {"id": 2, "answer": "no"}, {"id": 4.0, "answer": "no"}]
    json_file(folder / "test_answers.json", {"answers": answers})
    json_file(folder / "test_images.json", {"images": [{"id": 1}, {"id": True}]})
    return json_file(folder / "test_questions.json", {"questions": questions})


@pytest.mark.parametrize(
    ("form", "build", "texts", "faults"),
    [
        ("image_folder", links, ["lake"] * 3, ["outside_root"]),  # the broken link and the pipe are refused at decoding
        ("webdataset", compressed, ["one"], ["bad_member"]),
        ("hf_parquet", parquet, ["a.png"], ["bad_turns", "unknown_split"]),
        ("jsonl", jsonl({"split": 0}, {"split": False}, {"split": " "}), ["one"], ["unknown_split"] * 2),
        ("jsonl", jsonl({"scene_class": 3}, {"source": ["x"]}), [], ["bad_row"] * 2),
        ("jsonl", jsonl({"text": None, "messages": [{"role": "assistant", "content": [
            {"type": "video", "text": "one"}]}]}), [], ["bad_turns"]),
        ("jsonl", jsonl({"text": None, "messages": '[{"role": "assistant", "role": "user", "content": "x"}]'}), [],
         ["bad_turns"]),
        ("karpathy", karpathy(), ["one"], []),
        ("karpathy", karpathy(filepath=7), [], ["no_image"]),
        ("rsvqa", rsvqa, ["yes"], ["bad_row", "duplicate_id", "bad_row", "bad_row"] + ["no_item"] * 4),
        ("vl_rewardbench", lambda folder: json_file(folder / "rows.jsonl", '{"id": 1, "id": 2}\n' + "[" * 100_000), [],
         ["bad_row"] * 2),
    ],
)  # fmt: skip
def test_what_was_guessed_or_dropped(
    form: str, build: Callable[[Path], Path], texts: list[str], faults: list[str], tmp_path: Path
) -> None:
    assert read(form, build(tmp_path)) == (texts, faults)


def test_two_image_columns_need_a_setting(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [A], "images": [[A]], "text": ["one"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"has the columns image and images; name one of them in columns"):
        read("hf_parquet", tmp_path / "rows.parquet")
    assert read("hf_parquet", tmp_path / "rows.parquet", columns={"image": "images"}) == (["one"], [])


ASK, SAY, OTHER = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("user", "r")))


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("rs_pairs", '{"image": "a.png", "chosen": "a", "chosen": "b", "rejected": "c"}', "bad_row"),
        ("rs_pairs", '{"image": {"url": "http://x/a.png"}, "chosen": "a", "rejected": "c"}', "bad_image"),
        ("rs_pairs", '{"image": "a.png", "file_name": "b.png", "chosen": "a", "rejected": "c"}', "bad_image"),
        ("rs_pairs", '{"image": "a.png", "question": 0, "chosen": "a", "rejected": "c"}', "no_text"),
        ("rs_pairs", '{"image": "a.png", "question": "<image>\\nq", "chosen": "a", "rejected": "c"}', "q"),
        ("rs_pairs", '{"image": "a.png", "question": "<img>b</img>q", "chosen": "a", "rejected": "c"}', "bad_turns"),
        ("rs_pairs", "[1]", "bad_row"),
        ("rs_pairs", "{", "bad_row"),
        ("rlhf_v", {"text": '{"question": "q", "question": "r", "chosen": "a", "rejected": "b"}'}, "bad_row"),
        ("trl", {"image": "a.png", "prompt": "q", "chosen": [OTHER, SAY], "rejected": [OTHER, SAY]}, "bad_turns"),
        ("trl", {"image": "a.png", "prompt": "<image>q", "chosen": "a", "rejected": "b"}, "q"),
        ("trl", {"image": "a.png", "prompt": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}],
                 "chosen": "a", "rejected": "b"}, "bad_turns"),
        ("trl", {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": "a", "rejected": "b"},
         "bad_turns"),
        ("ultrafeedback", {"prompt": "q", "chosen": [{"role": "system", "content": "s"}, ASK, SAY],
                           "rejected": [{"role": "system", "content": "s"}, ASK, OTHER | {"role": "assistant"}]},
         "s q"),
        ("ultrafeedback", {"prompt": "q", "chosen": "<image>a", "rejected": "b"}, "q"),
        ("ultrafeedback", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "9", "score_rejected": 1},
         "bad_row"),
        ("ultrafeedback", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": float("nan")}, "bad_row"),
    ],
)  # fmt: skip
def test_pairs_that_were_guessed_or_dropped(form: str, row: Any, expected: str, tmp_path: Path) -> None:
    path = json_file(tmp_path / "pairs.jsonl", f"{row if isinstance(row, str) else json.dumps(row)}\n")
    (entry,) = IMPORTERS[form](PairFile(format=form, path=str(path)))  # type: ignore[arg-type]
    if isinstance(entry, ImportedPair):
        assert " ".join(turn["content"] for turn in entry.context) == expected
    else:
        assert entry.reason == expected


def test_pairs_in_subfolders_are_read(tmp_path: Path) -> None:
    for name in ("0.parquet", "more/0.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"prompt": "q", "chosen": "a", "rejected": "b"}]), tmp_path / name)
    keys = [entry.key for entry in IMPORTERS["trl"](PairFile(format="trl", path=str(tmp_path)))]
    assert keys == ["0.parquet[0]", "more/0.parquet[0]"]


def test_positions_of_dior_rsvg_are_unique_and_count_from_0(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/1.xml").write_text("<annotation/>")
    for positions in ("0\n0\n", "-1\n"):
        (tmp_path / "test.txt").write_text(positions)
        with pytest.raises(DataError, match="each position of a test object once"):
            read("dior_rsvg", tmp_path)
