"""Readers: good rows of each format; unreadable rows are faults, unreadable files are errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import coco, csv_file, image_folder, karpathy, llava
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow
from tests.source_pairs.generated import write_karpathy


def as_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def reasons(entries: list[Entry]) -> list[str]:
    return [entry.reason if isinstance(entry, RowFault) else "" for entry in entries]


def test_karpathy(tmp_path: Path) -> None:
    good = {"raw": " many planes are parked . ", "sentid": 7}
    images = [
        {"filename": "airport_1.jpg", "split": "train", "sentences": [good, {"raw": "a plane .", "sentid": 8}]},
        {"filename": "airport_2.jpg", "split": "restval", "sentences": []},
        {"filename": "airport_3.jpg", "split": "test", "sentences": None},
        {"filename": "airport_4.jpg", "split": "autumn", "sentences": [good]},
        {"split": "train", "sentences": [good]},
        {"filename": "airport_5.jpg", "split": "val", "sentences": [{"tokens": ["a"]}, "a plane", {"raw": 5}]},
        None,
    ]
    entries = list(karpathy.read(as_json(tmp_path / "data.json", {"images": images}), tmp_path / "images"))
    assert reasons(entries) == [
        "", "", "no_captions", "no_captions", "unknown_split", "no_image", "not_text", "not_text", "not_text",
        "no_image",
    ]  # fmt: skip
    assert entries[0] == SourceRow(
        key="airport_1.jpg/7",
        image=str(tmp_path / "images" / "airport_1.jpg"),
        messages=[{"role": "assistant", "content": "many planes are parked ."}],
        task="caption",
        source="human",
        split="train",
        scene_class=None,
    )


def test_coco(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 1, "file_name": "a.jpg"},
            {"id": 3}, {"id": 4, "file_name": "c.jpg"}, {"id": 4, "file_name": "d.jpg"},
        ],
        "annotations": [
            {"id": 70, "image_id": 1, "caption": "a moped on a dirt road. "},
            {"id": 71, "image_id": 9, "caption": "of no image"},
            {"id": 72, "image_id": 1},
            {"id": 73, "image_id": [1], "caption": "odd"},
            "a road",
            {"id": 74, "image_id": 4, "caption": "of c.jpg or of d.jpg"},
        ],
    }  # fmt: skip
    entries = list(coco.read(as_json(tmp_path / "captions.json", content), tmp_path))
    assert reasons(entries) == [
        "duplicate_id", "no_image", "duplicate_id", "", "unknown_image", "not_text", "unknown_image", "unknown_image",
        "unknown_image", "no_captions",
    ]  # fmt: skip
    row = entries[3]
    assert isinstance(row, SourceRow)
    assert (row.key, row.messages[0]["content"], row.split) == ("70", "a moped on a dirt road.", None)


def test_llava_keeps_turns(tmp_path: Path) -> None:
    def row(*turns: tuple[str, str], **changes: Any) -> dict[str, Any]:
        dialogue = [{"from": role, "value": text} for role, text in turns]
        return {"id": "1", "image": "a.jpg", "conversations": dialogue, **changes}

    question, answer = ("human", "<image>\nHow many ships?"), ("gpt", "Three.")
    rows = [
        row(question, answer, ("human", "And cars?"), ("gpt", "None.")),
        row(("system", "Be brief."), question, answer),
        row(question, answer, image=None),
        row(question),
        row(answer, question),
        row(("robot", "x"), answer),
        row(),
        row(conversations="hello"),
        row(("human", "x"), ("gpt", None)),  # type: ignore[arg-type]
        7,
    ]
    entries = list(llava.read(as_json(tmp_path / "mixed.json", rows), tmp_path))
    assert reasons(entries) == ["", "", "no_image", *["bad_turns"] * 6, "bad_row"]
    first = entries[0]
    assert isinstance(first, SourceRow)
    assert [turn["role"] for turn in first.messages] == ["user", "assistant", "user", "assistant"]
    assert first.messages[0]["content"] == "How many ships?"
    assert first.source == "mixed"


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(
        b"\xef\xbb\xbfimage,text,split\r\n"
        b'a.jpg,"two planes, one ship",train\r\n'
        b"b.jpg,caf\xe9 by the sea,val\r\n"
        b"\r\n"
        b",no image,train\r\n"
        b"c.jpg,too,many,values\r\n"
        b"d.jpg\r\n"
        b"e.jpg,a road,autumn\r\n"
        b"f.jpg," + b"x" * 200_000 + b",train\r\n"
        b"g.jpg,last,\r\n"
    )
    entries = list(csv_file.read(path, tmp_path))
    assert reasons(entries) == ["", "", "no_image", "bad_row", "bad_row", "unknown_split", "bad_row", ""]
    first, last = entries[0], entries[-1]
    assert isinstance(first, SourceRow)
    assert isinstance(last, SourceRow)
    assert (first.messages[0]["content"], first.split, first.source) == ("two planes, one ship", "train", "pairs")
    assert (last.key, last.split) == ("row 8", None)


def test_image_folder(tmp_path: Path) -> None:
    for name in ("train/River/1.jpg", "test/StorageTanks/2.jpg", "Forest/3.jpg", "4.jpg", "a/b/c/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = {entry.key: entry for entry in image_folder.read(tmp_path, tmp_path)}
    found = {key: (row.split, row.scene_class) for key, row in rows.items() if isinstance(row, SourceRow)}
    assert found == {
        "train/River/1.jpg": ("train", "river"),
        "test/StorageTanks/2.jpg": ("test", "storage_tanks"),
        "Forest/3.jpg": (None, "forest"),
    }
    assert {key for key, row in rows.items() if isinstance(row, RowFault)} == {"4.jpg", "a/b/c/5.jpg"}
    tanks = rows["test/StorageTanks/2.jpg"]
    assert isinstance(tanks, SourceRow)
    assert tanks.messages[-1]["content"] == "storage tanks"


@pytest.mark.parametrize(
    ("read", "content", "needed"),
    [
        (karpathy.read, b'{"images": [{"filename" "air"}]}', "not valid JSON at byte 12"),
        (karpathy.read, b"[]", "needs a list 'images'"),
        (karpathy.read, '{"images": []}'.encode("utf-16"), "UTF-8"),
        (llava.read, b"[" * 100_000, "not valid JSON"),
        (coco.read, b'{"images": []}', "needs a list 'annotations'"),
        (llava.read, b'{"rows": []}', "needs a list of rows"),
        (csv_file.read, b"picture,caption\na.jpg,b\n", "columns image and text"),
        (csv_file.read, b"", "columns image and text"),
    ],
)
def test_error_of_an_unusable_file_says_what_is_needed(
    read: Callable[..., Any], content: bytes, needed: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=needed):
        list(read(tmp_path / "file", tmp_path))


def test_missing_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(karpathy.read(tmp_path / "gone.json", tmp_path))
    with pytest.raises(DataError, match="has no files"):
        list(image_folder.read(tmp_path, tmp_path))


def test_limit_takes_complete_images_evenly_spaced_in_each_split(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    source = SourceFile(
        format="karpathy", path=str(tmp_path / "dataset.json"), images=str(tmp_path / "images"), limit=6,
        scene_class_from_name=True,
    )  # fmt: skip
    entries = [entry for entry in read_source(source) if isinstance(entry, SourceRow)]
    images = {
        split: sorted({e.image for e in entries if e.split == split}) for split in ("train", "validation", "test")
    }
    assert {split: len(names) for split, names in images.items()} == {"train": 6, "validation": 3, "test": 6}
    assert len(entries) == 5 * 15
    train = [Path(name).name for name in images["train"]]
    assert {name.split("train")[1] for name in train} == {f"{i}.jpg" for i in (0, 4, 8, 12, 16, 20)}
    assert {entry.scene_class for entry in entries} <= {"airport", "beach", "desert", "port", "river", "storage_tanks"}
