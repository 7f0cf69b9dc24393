"""Exports: byte-equal records in the source's own format, the same rows from every other format."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsqa_pipeline.curated_subsets.export import ExportCount, export, hf, tar_shards
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import read_bytes
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import RowFault, SourceRow
from tests.source_pairs.generated import write_image, write_karpathy

OTHER_FORMS = ("llava", "jsonl", "webdataset", "hf")
READ_AS = {"llava": "llava", "jsonl": "jsonl", "webdataset": "webdataset", "hf": "hf_parquet"}


def rows_of(source: SourceFile) -> list[SourceRow]:
    entries = list(read_source(source))
    assert all(isinstance(entry, SourceRow) for entry in entries), entries
    return [entry for entry in entries if isinstance(entry, SourceRow)]


def facts(row: SourceRow) -> tuple[Any, ...]:
    """All fields of a row, with the bytes of its image instead of its reference."""
    return (
        row.key, row.messages, row.task, row.source, row.split, row.scene_class, read_bytes(row.image),
    )  # fmt: skip


def assert_reads_back(source: SourceFile, keep: set[str], out: Path, form: str) -> None:
    kept = [row for row in rows_of(source) if row.key in keep]
    count = export(source, keep, out, form)
    assert count == ExportCount(len(kept), {})
    folder = str(Path(source.images or Path(str(source.path)).parent))
    images = folder if form in ("llava", "jsonl") else None
    again = rows_of(SourceFile(format=READ_AS[form], path=str(out), images=images))  # type: ignore[arg-type]
    key = lambda row: row.key if form == "hf" else ""  # noqa: E731 - a data set stores its splits one after the other
    assert [facts(row) for row in sorted(again, key=key)] == [facts(row) for row in sorted(kept, key=key)]
    if form in ("llava", "jsonl"):
        assert [row.image for row in again] == [row.image for row in kept]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        write_image(folder / f"deep/{seed}.jpg", seed)
    return folder


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=6).filter(
    lambda text: "<image>" not in text
)
TALKS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(
    lambda turns: [
        {"from": role, "value": text} for turn in turns for role, text in zip(("human", "gpt"), turn, strict=True)
    ]
) | TEXT.map(lambda text: [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}])
ROWS = st.lists(
    st.fixed_dictionaries(
        {"conversations": TALKS, "image": st.sampled_from([f"deep/{seed}.jpg" for seed in range(4)])},
        optional={"split": st.sampled_from(["train", "val", "test"]), "source": TEXT, "scene_class": TEXT,
                  "task": st.sampled_from(["caption", "count", "presence"]), "more": st.integers()},
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, kept=st.sets(st.integers(0, 5)), indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_any_rows_read_back(
    rows: list[dict[str, Any]], kept: set[int], indent: int | None, ascii_only: bool, pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"id": f"row {number}", **row} for number, row in enumerate(rows)]
    (folder / "a.json").write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    source = SourceFile(format="llava", path=str(folder / "a.json"), images=str(pictures))
    keep = {f"row {number}" for number in kept if number < len(rows)}
    for form in OTHER_FORMS:
        assert_reads_back(source, keep, folder / form, form)
    export(source, keep, folder / "same.json", "same")
    chosen = [row for row in rows if row["id"] in keep]
    assert json.loads((folder / "same.json").read_text(encoding="utf-8")) == chosen
    export(source, {row["id"] for row in rows}, folder / "all.json", "same")
    assert (folder / "all.json").read_bytes() == (folder / "a.json").read_bytes()


def as_source(form: str, path: Path, pictures: Path) -> SourceFile:
    return SourceFile(format=form, path=str(path), images=str(pictures))  # type: ignore[arg-type]


def test_karpathy_keeps_sentences(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path, {"train": 2, "test": 2})
    for image in content["images"]:
        image["sentids"] = [sentence["sentid"] for sentence in image["sentences"]]
    text = json.dumps(content, indent=1)
    (tmp_path / "dataset.json").write_text(text)
    source = as_source("karpathy", tmp_path / "dataset.json", tmp_path / "images")
    names = [image["filename"] for image in content["images"]]
    whole = {f"{names[0]}/{n}" for n in range(5)}
    part = {f"{names[2]}/11", f"{names[2]}/13"}
    assert export(source, whole | part, tmp_path / "part.json", "same").rows == 7
    written = (tmp_path / "part.json").read_text()
    first = text[text.index("{", 1) : text.index('},\n  {\n   "filename')]
    assert first in written and written.endswith(text[text.rindex("]") :])
    found = json.loads(written)
    assert found["dataset"] == "generated"
    assert found["images"][0] == content["images"][0]
    assert found["images"][1]["sentids"] == [11, 13]
    assert found["images"][1]["sentences"] == [content["images"][2]["sentences"][n] for n in (1, 3)]
    assert len(found["images"]) == 2
    again = rows_of(as_source("karpathy", tmp_path / "part.json", tmp_path / "images"))
    assert again == [row for row in rows_of(source) if row.key in whole | part]


@pytest.mark.parametrize("annotations_first", [False, True])
def test_coco_keeps_annotations_and_their_images(annotations_first: bool, pictures: Path, tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"deep/{n}.jpg", "width": 24} for n in range(3)]
    texts = [{"id": 70 + n, "image_id": n % 3, "caption": f"橋 {n}"} for n in range(6)]
    lists = {"images": images, "annotations": texts}
    content = {"info": {"year": 2017}, **dict(reversed(lists.items()) if annotations_first else lists), "licenses": []}
    (tmp_path / "coco.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    source = as_source("coco", tmp_path / "coco.json", pictures)
    export(source, ["73", "70", "72"], tmp_path / "part.json", "same")
    expected = {**content, "images": [images[0], images[2]], "annotations": [texts[0], texts[2], texts[3]]}
    assert (tmp_path / "part.json").read_text(encoding="utf-8") == json.dumps(expected, ensure_ascii=False)
    for form in OTHER_FORMS:
        assert_reads_back(source, {"71", "75"}, tmp_path / form, form)


@pytest.mark.parametrize("form", ["same", "jsonl"])
def test_markup_in_texts_and_names_is_exported_as_it_stands(form: str, pictures: Path, tmp_path: Path) -> None:
    text, name = "<script>x</script> [/red] **c** $x_1$", "[red]<b> **name**"
    cells = {"image": "deep/0.jpg", "text": text, "source": name}
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([cells.keys(), cells.values()])
    source = as_source("csv", tmp_path / "a.csv", pictures)
    export(source, ["row 1"], tmp_path / f"b.{form}", form)
    exported = (tmp_path / f"b.{form}").read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(exported))) if form == "same" else [json.loads(exported)]
    assert len(rows) == 1 and text in str(rows[0]) and "&lt;" not in exported and "\\[" not in exported


def test_csv_and_jsonl_keep_their_lines(pictures: Path, tmp_path: Path) -> None:
    head, one, two, three = "image,text,split\r\n", 'deep/0.jpg,"two\r\nlines, ""quoted""",train\r\n', \
        "deep/1.jpg,a caf\u00e9,val\r\n", "deep/2.jpg,last,"  # fmt: skip
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + (head + one + "\r\n" + two + three).encode())
    source = as_source("csv", tmp_path / "a.csv", pictures)
    export(source, ["row 1", "row 3"], tmp_path / "b.csv", "same")
    assert (tmp_path / "b.csv").read_bytes() == b"\xef\xbb\xbf" + (head + one + three).encode()
    for form in OTHER_FORMS:
        assert_reads_back(source, {"row 1", "row 2"}, tmp_path / form, form)
    lines = [
        b'{"image": "deep/0.jpg",  "text": "a"}\n',
        b'{"id": 7, "image": "deep/1.jpg", "text": "b"}\r\n',
        b'{"image": "deep/1.jpg", "task": "count", "messages": [{"role": "assistant", "content": "c"}]}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    source = as_source("jsonl", tmp_path / "a.jsonl", pictures)
    export(source, ["7", "line 3"], tmp_path / "b.jsonl", "same")
    assert (tmp_path / "b.jsonl").read_bytes() == lines[1] + lines[2]
    for form in OTHER_FORMS:
        assert_reads_back(source, {"line 1", "7"}, tmp_path / f"of lines {form}", form)


def write_shards(folder: Path, pictures: Path, per_shard: Iterable[int]) -> list[bytes]:
    """Writes tar shards of samples with one image and one text; returns each sample's bytes in its tar."""
    stored = []
    folder.mkdir()
    for shard, count in enumerate(per_shard):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for number in range(count):
                start = tar.offset
                for name, data in (
                    (f"x/{number}.jpg", (pictures / f"deep/{number % 4}.jpg").read_bytes()),
                    (f"x/{number}.txt", f"text {shard} {number}".encode()),
                    (f"x/{number}.cls", b"3"),
                ):
                    member = tarfile.TarInfo(name)
                    member.size, member.mtime = len(data), 17
                    tar.addfile(member, io.BytesIO(data))
                stored.append(buffer.getvalue()[start : tar.offset])
        (folder / f"{shard}.tar").write_bytes(buffer.getvalue())
    return stored


def test_webdataset_keeps_members(pictures: Path, tmp_path: Path) -> None:
    stored = write_shards(tmp_path / "shards", pictures, (3, 2, 2))
    source = SourceFile(format="webdataset", path=str(tmp_path / "shards"))
    keep = {"0.tar/x/1", "2.tar/x/0", "2.tar/x/1"}
    assert export(source, keep, tmp_path / "part", "same").rows == 3
    assert sorted(file.name for file in (tmp_path / "part").iterdir()) == ["0.tar", "2.tar"]
    assert (tmp_path / "part/0.tar").read_bytes() == stored[1] + bytes(1024)
    assert (tmp_path / "part/2.tar").read_bytes() == stored[5] + stored[6] + bytes(1024)
    again = rows_of(SourceFile(format="webdataset", path=str(tmp_path / "part")))
    originals = [row for row in rows_of(source) if row.key in keep]
    assert [row.messages for row in again] == [row.messages for row in originals]
    for form in ("webdataset", "hf", "llava"):
        out = tmp_path / "other" / form
        if form == "llava":
            export(source, keep, out, form)
            back = rows_of(SourceFile(format="llava", path=str(out), images=str(tmp_path / "shards")))
            assert [facts(row) for row in back] == [facts(row) for row in originals]
        else:
            assert_reads_back(source, keep, out, form)
    alone = SourceFile(format="webdataset", path=str(tmp_path / "shards/1.tar"))
    export(alone, ["x/1"], tmp_path / "alone.tar", "same")
    assert (tmp_path / "alone.tar").read_bytes() == stored[4] + bytes(1024)


def test_parquet_keeps_rows_and_schema(pictures: Path, tmp_path: Path) -> None:
    data = [{"bytes": (pictures / f"deep/{n % 4}.jpg").read_bytes(), "path": None} for n in range(6)]
    table = pa.table({"image": data, "text": [f"t{n}" for n in range(6)], "more": [n / 2 for n in range(6)]})
    table = table.replace_schema_metadata({"huggingface": "{}"})
    (tmp_path / "in/data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "in/data/train-00000.parquet", row_group_size=2)
    pq.write_table(table, tmp_path / "in/data/test-00000.parquet", row_group_size=4)
    source = SourceFile(format="hf_parquet", path=str(tmp_path / "in"))
    keep = {f"data/train-00000.parquet row {n}" for n in (0, 1, 5)}
    export(source, keep, tmp_path / "part", "same")
    assert [file.name for file in (tmp_path / "part/data").iterdir()] == ["train-00000.parquet"]
    assert pq.read_table(tmp_path / "part/data/train-00000.parquet").equals(table.take([0, 1, 5]), check_metadata=True)
    for form in ("webdataset", "hf"):
        assert_reads_back(source, {*keep, "data/test-00000.parquet row 4"}, tmp_path / form, form)


def test_image_folder_keeps_files(tmp_path: Path) -> None:
    for name in ("train/River/1.jpg", "train/River/2.jpg", "test/Port/3.jpg"):
        write_image(tmp_path / "in" / name, len(name))
    source = SourceFile(format="image_folder", path=str(tmp_path / "in"))
    export(source, ["train/River/2.jpg", "test/Port/3.jpg"], tmp_path / "out", "same")
    files = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.jpg")}
    assert files == {"train/River/2.jpg", "test/Port/3.jpg"}
    for form in OTHER_FORMS:
        out = tmp_path / form
        export(source, files, out, form)
        images = str(tmp_path / "in") if form in ("llava", "jsonl") else None
        back = rows_of(SourceFile(format=READ_AS[form], path=str(out), images=images))  # type: ignore[arg-type]
        expected = {facts(row)[0]: facts(row) for row in rows_of(source) if row.key in files}
        assert {row.key: facts(row) for row in back} == expected


def test_data_set_folder_opens_in_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    monkeypatch.setattr(hf, "GROUP_ROWS", 4)
    monkeypatch.setattr(hf, "FILE_BYTES", 5000)
    write_karpathy(tmp_path)
    source = as_source("karpathy", tmp_path / "dataset.json", tmp_path / "images")
    keep = {row.key for row in rows_of(source)}
    notes = {"rule": "best 30 % | by score", "score model version": "5be1c0"}
    assert export(source, keep, tmp_path / "out", "hf", notes).rows == len(keep) == 195
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 120, "validation": 15, "test": 60}
    first = rows_of(source)[0]
    assert loaded["train"][0]["messages"] == first.messages
    assert loaded["train"][0]["image"].size == (24, 24)
    assert len(list((tmp_path / "out/data").glob("train-*"))) > 1
    card = (tmp_path / "out/README.md").read_text()
    assert "best 30 % \\| by score" in card and "5be1c0" in card and "| rows, train | 120 |" in card
    assert {row.key for row in rows_of(SourceFile(format="hf_parquet", path=str(tmp_path / "out")))} == keep


def test_shards_are_filled_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "SHARD_BYTES", 4000)
    write_karpathy(tmp_path, {"train": 4})
    source = as_source("karpathy", tmp_path / "dataset.json", tmp_path / "images")
    export(source, {row.key for row in rows_of(source)}, tmp_path / "out", "webdataset")
    assert len(list((tmp_path / "out").glob("*.tar"))) > 3
    back = rows_of(SourceFile(format="webdataset", path=str(tmp_path / "out")))
    assert [facts(row) for row in back] == [facts(row) for row in rows_of(source)]


def test_first_of_several_rows_with_one_key_is_written(pictures: Path, tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "deep/0.jpg", "text": text} for text in ("first", "second")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    export(as_source("jsonl", tmp_path / "a.jsonl", pictures), ["a"], tmp_path / "b.jsonl", "same")
    assert json.loads((tmp_path / "b.jsonl").read_text()) == rows[0]


@pytest.mark.parametrize("form", ["same", *OTHER_FORMS])
def test_missing_row_leaves_no_files(form: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "a", "image": "deep/0.jpg", "text": "t"}\n')
    source = as_source("jsonl", tmp_path / "a.jsonl", pictures)
    with pytest.raises(DataError, match=r"lacks 1 of the 2 rows to export, e\.g\. 'b'"):
        export(source, ["a", "b"], tmp_path / "out", form)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(("form", "written"), [("webdataset", 1), ("hf", 1), ("llava", 2), ("same", 2)])
def test_missing_image_is_counted_if_images_are_copied(form: str, written: int, pictures: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"id": name, "image": name, "text": "t"}) for name in ("deep/0.jpg", "gone.jpg")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    count = export(as_source("jsonl", tmp_path / "a.jsonl", pictures), ["deep/0.jpg", "gone.jpg"], tmp_path / "o", form)
    assert count == ExportCount(written, {} if written == 2 else {"missing_image": 1})
    if form == "hf":
        assert "| left out, missing_image | 1 |" in (tmp_path / "o/README.md").read_text()


def test_paths_that_would_destroy_data_are_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image": "deep/0.jpg", "text": "t"}\n')
    source = as_source("jsonl", tmp_path / "a.jsonl", pictures)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for out, needed in ((tmp_path / "a.jsonl", "another path"), (tmp_path / "full", "with files in it")):
        with pytest.raises(DataError, match=needed):
            export(source, ["line 1"], out, "same")
    shards = tmp_path / "shards"
    write_shards(shards, pictures, (1,))
    with pytest.raises(DataError, match="another path"):
        export(SourceFile(format="webdataset", path=str(shards)), ["0.tar/x/0"], shards / "new", "webdataset")
    with pytest.raises(DataError, match="known forms: same, llava, jsonl, webdataset, hf"):
        export(source, ["line 1"], tmp_path / "b", "excel")


@pytest.mark.parametrize("form", ["karpathy", "llava", "coco"])
def test_truncated_source_gives_a_valid_export(form: str, pictures: Path, tmp_path: Path) -> None:
    content: Any = {
        "karpathy": {"images": [{"filename": f"deep/{n}.jpg", "split": "train", "sentences": [{"raw": "t"}]}
                                for n in range(3)]},
        "llava": [{"id": str(n), "image": f"deep/{n}.jpg",
                   "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
                  for n in range(3)],
        "coco": {"images": [{"id": n, "file_name": f"deep/{n}.jpg"} for n in range(2)],
                 "annotations": [{"id": n, "image_id": n % 2, "caption": "t"} for n in range(3)]},
    }[form]  # fmt: skip
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(content)[:-20])
    source = as_source(form, path, pictures)
    keys = [entry.key for entry in read_source(source) if isinstance(entry, SourceRow)]
    assert len(keys) == 2
    export(source, keys, tmp_path / "part.json", "same")
    again = list(read_source(as_source(form, tmp_path / "part.json", pictures)))
    assert [entry.key for entry in again] == keys and not any(isinstance(entry, RowFault) for entry in again)


def test_all_captions_of_rsicd_read_back_equal(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "rsicd"
    if not folder.is_dir():
        pytest.skip(f"no RSICD images at {folder}")
    path, images = folder / "dataset_rsicd.json", folder / "RSICD_images"
    source = as_source("karpathy", path, images)
    rows = rows_of(source)
    assert (len(rows), len({row.image for row in rows})) == (24_980, 4_996)
    everything = {row.key for row in rows}
    assert export(source, everything, tmp_path / "all.json", "same").rows == 24_980
    assert (tmp_path / "all.json").read_bytes() == path.read_bytes()
    part = {row.key for number, row in enumerate(rows) if number % 3 == 0 or number % 10 < 5}
    kept = [row for row in rows if row.key in part]
    for keep, expected, name in ((everything, rows, "all"), (part, kept, "part")):
        for form, read_as in (("same", "karpathy"), ("llava", "llava")):
            out = tmp_path / f"{name} {form}.json"
            assert export(source, keep, out, form).rows == len(expected)
            assert rows_of(as_source(read_as, out, images)) == expected
    whole = {json.dumps(image) for image in json.loads(path.read_bytes())["images"]}
    written = [json.dumps(image) for image in json.loads((tmp_path / "part same.json").read_bytes())["images"]]
    assert 2000 < sum(image in whole for image in written) < len(written) == 4_996


def test_kept_csv_rows_parse_to_the_same_values(pictures: Path, tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "image"])
        texts = ['a "b", c', "line\nbreak", "كلب", "\u202eright to left"]
        writer.writerows([text, f"deep/{number}.jpg"] for number, text in enumerate(texts))
    source = as_source("csv", tmp_path / "a.csv", pictures)
    export(source, ["row 2", "row 4"], tmp_path / "b.csv", "same")
    back = rows_of(as_source("csv", tmp_path / "b.csv", pictures))
    assert [row.messages[0]["content"] for row in back] == [texts[1], texts[3]]
