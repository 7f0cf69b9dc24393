"""JSON lines, and formats that store their images: WebDataset tars and Hugging Face Parquet; valid and damaged
files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images import parquet
from rsqa_pipeline.images.decode import ImageFault, open_image, read_bytes
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers import hf_parquet, jsonl, webdataset
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow
from tests.source_pairs.generated import write_image


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> dict[str, tuple[int, int]]:
    """Writes the members; returns where each member's header starts and where its data ends."""
    spans = {}
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            start = tar.offset
            tar.addfile(member, io.BytesIO(data))
            spans[name] = (start, tar.offset)
    return spans


def samples(count: int) -> dict[str, bytes]:
    return {
        name: data
        for n in range(count)
        for name, data in ((f"{n:03d}.png", picture(n)), (f"{n:03d}.txt", f"text {n}".encode()))
    }


def kinds(entries: list[Entry]) -> list[str]:
    return [entry.reason if isinstance(entry, RowFault) else entry.messages[-1]["content"] for entry in entries]


def read(path: Path) -> list[Entry]:
    return list(webdataset.read(path, path))


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {"image": "a.jpg", "text": " a plane . "},
        {"id": 5, "image": "b.jpg", "caption": "橋", "split": "val", "source": "a captioner", "scene_class": "port"},
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nhow many?"},
                                             {"from": "gpt", "value": "2"}], "task": "count"},
        {"image": "a.jpg", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]},
        {"image": "a.jpg", "text": "t", "split": "autumn"}, {"text": "t"}, {"image": "a.jpg"}, [1],
        {"image": "a.jpg", "text": 7}, {"image": "a.jpg", "messages": [{"role": "user", "content": "?"}]},
    ]  # fmt: skip
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\ufeff{text}\n\nno json\n" + '{"image": "a.jpg", "te', encoding="utf-8")
    entries = list(jsonl.read(path, tmp_path))
    assert kinds(entries) == [
        "a plane .", "橋", "2", "!", "unknown_split", "no_image", "not_text", "bad_row", "not_text", "bad_turns",
        "bad_row", "truncated_file",
    ]  # fmt: skip
    assert entries[1] == SourceRow(
        "5", str(tmp_path / "b.jpg"), [{"role": "assistant", "content": "橋"}], "caption", "a captioner", "validation",
        "port",
    )  # fmt: skip
    rows = [entry for entry in entries if isinstance(entry, SourceRow)]
    assert [row.task for row in rows] == ["caption", "caption", "count", "open"]
    assert [entry.key for entry in entries][-2:] == ["line 12", "line 13"]
    with pytest.raises(DataError, match="cannot be read"):
        list(jsonl.read(tmp_path / "gone.jsonl", tmp_path))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_samples(form: int, tmp_path: Path) -> None:
    members = samples(2)
    values = {"id": "mine", "messages": [{"role": "assistant", "content": "j"}], "split": "test"}
    members |= {"deep/a.PNG": picture(7), "deep/a.json": json.dumps(values).encode(), "deep/a.cls": b"3"}
    members |= {"b.json": b'{"split": "val", "text": "this"}', "b.jpg": picture(8), "b.txt": b"this"}
    members |= {f"{'long/' * 15}{'x' * 60}.png": picture(9), f"{'long/' * 15}{'x' * 60}.txt": b"long"}
    write_tar(tmp_path / "all.tar", members, form)
    entries = read(tmp_path / "all.tar")
    assert kinds(entries) == ["text 0", "text 1", "j", "this", "long"]
    rows = [entry for entry in entries if isinstance(entry, SourceRow)]
    assert [row.key for row in rows[:4]] == ["000", "001", "mine", "b"]
    assert [row.split for row in rows[1:4]] == [None, "test", "validation"]
    assert [read_bytes(row.image) for row in rows] == [picture(n) for n in (0, 1, 7, 8, 9)]


def test_keys_in_a_folder_of_shards_contain_the_shard(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("0.tar", "more/1.tar"):
        write_tar(tmp_path / name, samples(2))
    source = SourceFile(format="webdataset", path=str(tmp_path))
    assert [entry.key for entry in read_source(source)] == [
        "0.tar/000",
        "0.tar/001",
        "more/1.tar/000",
        "more/1.tar/001",
    ]
    with pytest.raises(DataError, match=r"not a folder with \.tar files"):
        read(tmp_path / "none")


def test_incomplete_samples(tmp_path: Path) -> None:
    members = {"a.txt": b"t", "b.png": picture(1), "c.png": b"", "c.jpg": b"", "c.txt": b"t", "d.png": picture(2),
               "d.json": b"{", "e.png": picture(3), "e.json": b"[]", "f.png": picture(4), "f.json": b"{}"}  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    assert kinds(read(tmp_path / "a.tar")) == ["no_image", "not_text", "bad_row", "bad_row", "bad_row", "not_text"]


@pytest.mark.parametrize("damaged", ["000.png", "001.png", "002.txt"])
def test_a_damaged_header_loses_only_its_member(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    start, _ = write_tar(path, samples(3))[damaged]
    data = bytearray(path.read_bytes())
    data[start + 100 : start + 200] = b"?" * 100
    path.write_bytes(data)
    entries = read(path)
    faults = [entry for entry in entries if isinstance(entry, RowFault)]
    assert sorted(fault.reason for fault in faults) == sorted(
        ["bad_member", "no_image" if damaged.endswith("png") else "not_text"]
    )
    complete = [f"text {n}" for n in range(3) if f"{n:03d}" != damaged[:3]]
    assert [kind for kind in kinds(entries) if kind.startswith("text")] == complete


def test_a_damaged_long_name_is_one_fault(tmp_path: Path) -> None:
    members = (
        samples(1)
        | {"n" * 150 + ".png": picture(1), "n" * 150 + ".txt": b"long"}
        | {"z.png": picture(2), "z.txt": b"z"}
    )
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        start, _ = write_tar(path, members, form)["n" * 150 + ".png"]
        data = bytearray(path.read_bytes())
        data[start + 1024 + 148 : start + 1024 + 156] = b"00000000"  # the checksum of the header after the name
        path.write_bytes(data)
        found = kinds(read(path))
        assert found == ["bad_member", "text 0", "no_image", "z"]


def test_a_truncated_tar_is_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    spans = write_tar(path, samples(3))
    data = path.read_bytes()
    end = spans["002.txt"][1]
    for cut in range(1, end + 1, 97):
        path.write_bytes(data[:cut])
        found = kinds(read(path))
        complete = sum(spans[f"{n:03d}.txt"][0] + 512 + 6 <= cut for n in range(3))
        expected = [f"text {n}" for n in range(complete)]
        assert found[:-1] == expected, cut
        assert found[-1] == ("bad_member" if cut < 512 else "truncated_file"), cut
    path.write_bytes(data[: end + 1024])
    assert kinds(read(path)) == ["text 0", "text 1", "text 2"]


@pytest.mark.parametrize("content", [b"", b"no tar at all\n" * 500, b"\x1f\x8b" + bytes(range(256)) * 20])
def test_a_file_that_is_not_a_tar_is_one_fault(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    (fault,) = read(tmp_path / "a.tar")
    assert isinstance(fault, RowFault) and fault.reason == "bad_member" and "is not a tar" in fault.detail


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert kinds(read(path)) == ["bad_member"] * 3


def stored(*seeds: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(seed), "path": f"{seed}.png"} for seed in seeds]


def test_parquet_rows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = {"image": [*stored(0, 1), {"bytes": None, "path": "beside.jpg"}, {"bytes": None, "path": None}, *stored(4)],
            "text": ["a", "b", "c", "d", None], "id": ["x", None, None, None, None]}  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "data/train-00000-of-00001.parquet", row_group_size=2)
    write_image(tmp_path / "beside.jpg", 3)
    talk = [[{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "!"}]]
    table = pa.table({"image": [picture(5)], "conversations": talk, "split": ["test"]})
    pq.write_table(table, tmp_path / "data/validation.parquet")
    source = SourceFile(format="hf_parquet", path=str(tmp_path))
    entries = list(read_source(source))
    assert kinds(entries) == ["a", "b", "c", "no_image", "not_text", "!"]
    name = "data/train-00000-of-00001.parquet"
    assert [entry.key for entry in entries[:3]] == ["x", f"{name} row 1", f"{name} row 2"]
    assert [entry.split for entry in entries] == ["train"] * 5 + ["test"]
    assert entries[1].image == f"{tmp_path / name}#1:image"
    assert [read_bytes(entry.image) for entry in (*entries[:2], entries[5])] == [picture(n) for n in (0, 1, 5)]
    assert open_image(entries[2].image).size == (24, 24)


def test_image_bytes_are_read_once_per_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"image": stored(*range(20))}), tmp_path / "a.parquet", row_group_size=5)
    parquet._column.cache_clear()
    for row in range(20):
        assert read_bytes(f"{tmp_path}/a.parquet#{row}:image") == picture(row)
    assert parquet._column.cache_info().misses == 4
    for wrong in ("20:image", "3:picture"):
        with pytest.raises(ImageFault, match="missing_image"):
            read_bytes(f"{tmp_path}/a.parquet#{wrong}")


def test_a_changed_parquet_is_read_again(tmp_path: Path) -> None:
    import os

    for seed in (1, 2):
        pq.write_table(pa.table({"image": stored(seed)}), tmp_path / "a.parquet")
        os.utime(tmp_path / "a.parquet", (seed, seed))
        assert read_bytes(f"{tmp_path}/a.parquet#0:image") == picture(seed)


@pytest.mark.parametrize(
    ("columns", "needed"),
    [
        ({"text": ["t"]}, "lacks the column image; found text"),
        (
            {"image": [b"x"], "label": [3]},
            "lacks the column one of messages, conversations, text, caption, captions; found image",
        ),
        ({"pixels": [b"x"]}, "lacks the column image and one of messages"),
    ],
)
def test_a_missing_column_is_reported_before_any_row(columns: dict[str, Any], needed: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": stored(0), "text": ["t"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=needed):
        next(iter(hf_parquet.read(tmp_path, tmp_path)))


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {n} " + "x" * 300 for n in range(6)]
    pq.write_table(
        pa.table({"image": stored(*range(6)), "text": texts}), path, row_group_size=2, compression="zstd",
        use_dictionary=False,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(1).column(2)
    assert column.path_in_schema == "text"
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    found = kinds(list(hf_parquet.read(path, tmp_path)))
    assert [kind.split(" x")[0] for kind in found] == [
        "text 0",
        "text 1",
        "unreadable",
        "unreadable",
        "text 4",
        "text 5",
    ]
    path.write_bytes(data[:-50])
    with pytest.raises(DataError, match="not a complete Parquet file"):
        list(hf_parquet.read(path, tmp_path))
    with pytest.raises(DataError, match="not a folder with"):
        list(hf_parquet.read(tmp_path / "none", tmp_path))


@pytest.mark.parametrize("size", [-1, -4096, -(10**6), 10**12])
def test_a_header_with_a_wrong_size_does_not_make_the_reader_loop(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    start, _ = write_tar(path, samples(3))["001.png"]
    data = bytearray(path.read_bytes())
    data[start + 124 : start + 136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11)
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    path.write_bytes(data)
    rest = ["bad_member", "no_image", "text 2"] if size < 0 else ["truncated_file"]
    assert sorted(kinds(read(path))) == sorted(["text 0", *rest])
