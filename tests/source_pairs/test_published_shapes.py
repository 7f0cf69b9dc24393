"""Files in the shapes that people publish, read as their writers meant them: keys, ids, splits, tasks, image marks."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsqa_pipeline.images.decode import hash_image, read_bytes
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers import jsonl, llava, webdataset
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.scene_classes import class_from_file_name
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, split_of_path
from tests.source_pairs.test_image_stores import kinds, picture


def write_members(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def pairs(entries: list[Entry]) -> list[tuple[str, str]]:
    return [
        (hash_image(read_bytes(entry.image)), entry.messages[-1]["content"])
        for entry in entries
        if isinstance(entry, SourceRow)
    ]


A, B = picture(1), picture(2)
A_ID, B_ID = hash_image(A), hash_image(B)


@pytest.mark.parametrize(
    ("members", "expected", "faults"),
    [
        ([("37.77_-122.41.jpg", A), ("37.77_-122.41.txt", b"a"), ("37.78_-122.41.jpg", B), ("37.78_-122.41.txt", b"b")],
         [(A_ID, "a"), (B_ID, "b")], []),
        ([("x.jpg", A), *[("x.txt", f"{n}".encode()) for n in range(5)]], [(A_ID, f"{n}") for n in range(5)], []),
        ([("x.jpg", A), ("x.txt", b"a"), ("x.jpg", B)], [(A_ID, "a")], ["not_text"]),
        ([("x.jpg", A), ("x.txt", b"a"), ("x.jpg", B), ("x.txt", b"b")], [(A_ID, "a"), (B_ID, "b")], []),
        ([("x.txt", b"a"), ("x.jpg", A), ("x.txt", b"b"), ("x.jpg", B)], [(A_ID, "a"), (B_ID, "b")], []),
        ([("x.jpg", A), ("x.jpg", B), ("x.txt", b"?")], [], ["bad_row"]),
        ([("x.jpg", A), ("x.seg.png", B), ("x.txt", b"a")], [(A_ID, "a")], []),
        ([("x.jpg", A), ("y.txt", b"b"), ("x.txt", b"a")], [], ["not_text", "no_image", "no_image"]),
    ],
)  # fmt: skip
def test_webdataset_members_that_belong_together(
    members: list[tuple[str, bytes]], expected: list[tuple[str, str]], faults: list[str], tmp_path: Path
) -> None:
    write_members(tmp_path / "a.tar", *members)
    entries = list(webdataset.read(tmp_path / "a.tar", tmp_path))
    assert pairs(entries) == expected
    assert [entry.reason for entry in entries if isinstance(entry, RowFault)] == faults


def jsonl_entries(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> list[Entry]:
    (folder / "a.png").write_bytes(A)
    (folder / name).write_text("\n".join(json.dumps({"image": "a.png", **row}) for row in rows), encoding="utf-8")
    return list(read_source(SourceFile(format="jsonl", path=str(folder / name))))


@pytest.mark.parametrize("identity", ["7", 7, None, "", " ", float("nan")])
def test_rows_that_share_an_id_or_have_none_are_all_kept(identity: Any, tmp_path: Path) -> None:
    entries = jsonl_entries(tmp_path, *({"id": identity, "text": f"question {n}"} for n in range(4)))
    quarantine = Quarantine("test")
    kept = check_rows(entries, ImageIndex(1000), quarantine)
    assert [row.row.messages[0]["content"] for row in kept] == [f"question {n}" for n in range(4)]
    assert len({row.row.key for row in kept}) == 4
    assert not quarantine.rows


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("default/train/0000.parquet", "train"), ("default/test/0000.parquet", "test"), ("Dev/0.tar", "validation"),
        ("rsicd_test.parquet", "test"), ("captions_val2014.json", "validation"), ("TRAINING.csv", "train"),
        ("train-00000-of-00001.parquet", "train"), ("restval/1.tar", "train"), ("latest.json", None),
        ("contest/0.tar", None), ("train_test.csv", None), ("rows.jsonl", None),
    ],
)  # fmt: skip
def test_a_path_states_a_split(path: str, split: str | None) -> None:
    assert split_of_path(PurePath(path)) == split


def test_rows_take_the_split_of_their_file_or_folder(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        folder = tmp_path / "parquet" / "default" / split
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"image": [A], "text": ["a"]}), folder / "0000.parquet")
    found = [entry.split for entry in read_source(SourceFile(format="hf_parquet", path=str(tmp_path / "parquet")))]
    assert found == ["test", "train", "validation"]
    write_members(tmp_path / "a.tar", ("val/x.jpg", A), ("val/x.txt", b"a"), ("y.jpg", B), ("y.txt", b"b"))
    found = [entry.split for entry in read_source(SourceFile(format="webdataset", path=str(tmp_path / "a.tar")))]
    assert found == ["validation", None]
    (entry,) = jsonl_entries(tmp_path, {"text": "a"}, name="rsicd_test.jsonl")
    assert entry.split == "test"
    (entry,) = jsonl_entries(tmp_path, {"text": "a", "split": "Dev"}, name="rsicd_test.jsonl")
    assert entry.split == "validation"  # the row's own word counts


TURNS = [{"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "2"}]
PARTS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"images": ["a.png"], "messages": TURNS}, "2"),
        ({"image": ["a.png"], "text": "a"}, "a"),
        ({"file_name": "a.png", "text": "a"}, "a"),
        ({"images": ["a.png"], "messages": PARTS}, "2"),
        ({"image": "a.png", "messages": json.dumps(TURNS)}, "2"),
        ({"image": "a.png", "text": "a\u2028b"}, "a\u2028b"),
        ({"images": ["a.png", "b.png"], "messages": TURNS}, "no_image"),
        ({"images": [], "messages": TURNS}, "no_image"),
        ({"image": "a.png", "messages": [{**TURNS[0], "content": "<image><image>?"}, TURNS[1]]}, "bad_turns"),
        ({"image": "a.png", "messages": [TURNS[0], TURNS[1], TURNS[0], TURNS[1]]}, "bad_turns"),
        ({"image": "a.png", "messages": [{"role": "user", "content": [{"type": "audio"}]}, TURNS[1]]}, "bad_turns"),
        ({"image": "a.png", "messages": TURNS, "task": "autumn"}, "unknown_task"),
    ],
)
def test_json_lines_in_published_shapes(row: dict[str, Any], expected: str, tmp_path: Path) -> None:
    (entry,) = jsonl.read_line(json.dumps(row, ensure_ascii=False).encode(), 2, "rows", tmp_path)
    assert kinds([entry]) == [expected]
    assert (
        not isinstance(entry, SourceRow)
        or "user" not in entry.messages[0]["role"]
        or (entry.messages[0]["content"] == "How many?")
    )


def test_a_line_separator_is_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "text": "one\u2028two"}\n', encoding="utf-8")
    assert kinds(list(jsonl.read(tmp_path / "a.jsonl", tmp_path))) == ["one\u2028two"]


@pytest.mark.parametrize(
    ("name", "task"),
    [("Visual Grounding", "grounding"), ("Counting", "count"), ("scene-classification", "scene_class"),
     ("count", "count"), (None, "open"), ("", "open"), ("segmentation", None), (7, None)],
)  # fmt: skip
def test_task_names(name: Any, task: str | None, tmp_path: Path) -> None:
    row = {"image": "a.png", "messages": TURNS, "task": name}
    (entry,) = jsonl.read_line(json.dumps(row).encode(), 2, "rows", tmp_path)
    assert (entry.task if isinstance(entry, SourceRow) else None) == task


def test_llava_pretraining_rows_are_captions(tmp_path: Path) -> None:
    def row(question: str) -> dict[str, Any]:
        return {
            "image": "a.png",
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "b"}],
        }

    questions = ["<image>\nProvide a brief description of the given image.", "Describe the image concisely.\n<image>"]
    for question in questions:
        entry = llava.read_row(row(question), 0, "rows", tmp_path)
        assert isinstance(entry, SourceRow) and (entry.task, len(entry.messages)) == ("caption", 1)
    entry = llava.read_row(row("<image>\nIs there a bridge?"), 0, "rows", tmp_path)
    assert isinstance(entry, SourceRow) and (entry.task, len(entry.messages)) == ("open", 2)


@pytest.mark.parametrize(
    ("name", "scene_class"),
    [
        ("airport_1.jpg", "airport"), ("dense_residential_12.jpg", "dense_residential"),
        ("denseresidential_12.jpg", "dense_residential"), ("agricultural00.tif", "agricultural"),
        ("AnnualCrop_17.jpg", "annual_crop"), ("BareLand_3.jpg", "bare_land"), ("HerbaceousVegetation_1.jpg",
        "herbaceous_vegetation"), ("ground_track_field_700.jpg", "ground_track_field"), ("00001.jpg", None),
        ("photo.jpg", None),
    ],
)  # fmt: skip
def test_scene_class_from_a_file_name(name: str, scene_class: str | None) -> None:
    assert class_from_file_name(name) == scene_class
