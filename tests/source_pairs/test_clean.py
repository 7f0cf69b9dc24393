"""Bad input: every kind is quarantined with its reason, the other rows are kept, and the counts add up."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import ImageFault, hash_image
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import image_text_pairs
from rsqa_pipeline.source_pairs.clean import ImageIndex, check_rows, drop_repeats, text_fault
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import Entry, RowFault, SourceRow, caption
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, two_tone_png, write_image, write_karpathy


def add_image(content: dict[str, Any], name: str, *texts: str, split: str = "train") -> None:
    sentences = [{"raw": text} for text in texts]
    content["images"].append({"filename": name, "split": split, "sentences": sentences})


def write_bad_images(folder: Path) -> dict[str, str]:
    """Writes one file of each kind that cannot be used. Returns file name -> reason."""
    write_image(folder / "whole.jpg", 900)
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "zero_1.jpg").write_bytes(b"")
    (folder / "text_1.jpg").write_bytes(b"I am a line of text, whatever my name says.\n")
    (folder / "cut_1.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt_1.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    (folder / "huge_1.png").write_bytes(two_tone_png(20_000, 20_000))
    (folder / "folder_1.jpg").mkdir()
    return {
        "zero_1.jpg": "zero_bytes",
        "text_1.jpg": "not_an_image",
        "cut_1.jpg": "truncated",
        "corrupt_1.jpg": "undecodable",
        "huge_1.png": "too_large",
        "folder_1.jpg": "missing_image",
        "gone_1.jpg": "missing_image",
    }


def test_every_kind_of_bad_input_is_counted_by_reason(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path)
    good_rows = 5 * len(content["images"])
    expected = Counter[str]()
    for name, reason in write_bad_images(tmp_path / "images").items():
        add_image(content, name, "a plane .", "two planes .")
        expected[reason] += 2
    write_image(tmp_path / "images" / "port_900.jpg", 901)
    texts = ("", "  \t", "\u200b", "a port of \udce9 ships .", "a sound caption .", "a sound caption .")
    add_image(content, "port_900.jpg", *texts)
    expected += Counter({"empty_text": 3, "not_utf8": 1, "duplicate_id": 1})
    add_image(content, "port_901.jpg")
    expected["no_captions"] += 1
    content["images"].append(content["images"][0])
    expected["duplicate_id"] += 5
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")
    (tmp_path / "dataset.json").write_bytes(text)

    out = tmp_path / "out"
    metrics = image_text_pairs.run({}, out, settings(tmp_path), SilentLogger())

    quarantine = read_table(out / "quarantine.parquet")
    assert Counter(row["reason"] for row in quarantine) == expected
    assert all(row["asset"] == "image_text_pairs" and row["sample_id"] and row["detail"] for row in quarantine)
    samples = read_table(out / "samples.parquet")
    assert len(samples) == metrics["kept_rows"] == good_rows + 1
    assert metrics["quarantined_rows"] == len(quarantine) == sum(expected.values())
    assert metrics["input_rows"] == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert metrics["quarantined/too_large"] == 2
    assert metrics["quarantined/duplicate_id"] == 6
    assert any("\\udce9" in row["detail"] for row in quarantine)


def test_an_image_is_never_in_two_splits(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path)
    test_image = next(image for image in content["images"] if image["split"] == "test")
    data = (tmp_path / "images" / test_image["filename"]).read_bytes()
    (tmp_path / "images" / "airport_copy.jpg").write_bytes(data)
    add_image(content, "airport_copy.jpg", "a copy .", "another text .")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    metrics = image_text_pairs.run({}, tmp_path / "out", settings(tmp_path), SilentLogger())
    assert metrics["quarantined/split_conflict"] == 2
    samples = read_table(tmp_path / "out" / "samples.parquet")
    assert {row["split"] for row in samples if row["image_id"] == hash_image(data)} == {"test"}


def test_no_usable_row_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    elsewhere = SourceFile(format="karpathy", path=str(tmp_path / "dataset.json"), images=str(tmp_path / "elsewhere"))
    changed = settings(tmp_path, captions=elsewhere)
    with pytest.raises(DataError, match=r"no row can be used.*missing_image: 195"):
        image_text_pairs.run({}, tmp_path / "out", changed, SilentLogger())
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    write_karpathy(tmp_path, {"test": 6})
    with pytest.raises(DataError, match="no sample is left in the split 'preference'"):
        image_text_pairs.run({}, tmp_path / "out", settings(tmp_path), SilentLogger())


def test_image_that_a_later_stage_could_not_use_is_refused_at_ingest_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("RGB", (402, 2)).save(tmp_path / "thin.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "pixels.png")
    (tmp_path / "bytes.png").write_bytes(bytes(5000))
    Image.new("RGB", (30, 30)).save(tmp_path / "good.png")
    reasons = {"pipe": "not_a_file", "thin": "refused_shape", "pixels": "too_large", "bytes": "too_large"}
    text = caption("a port")
    names = (*reasons, "good")
    rows = [SourceRow(name, str(tmp_path / f"{name}.png"), text, "caption", "x", None, None) for name in names]
    quarantine = Quarantine("image_text_pairs")
    clean = check_rows(rows, ImageIndex(max_pixels=1000, max_bytes=4999), quarantine)
    assert [row.row.key for row in clean] == ["good"]
    assert {row["sample_id"]: row["reason"] for row in quarantine.rows} == reasons
    assert all(f"{row['sample_id']}.png" in row["detail"] for row in quarantine.rows)


def test_a_profile_may_only_lower_the_limits_of_images(tmp_path: Path) -> None:
    for above in ({"max_image_pixels": 100_000_001}, {"max_image_bytes": 2**29 + 1}):
        with pytest.raises(ValueError, match="less than or equal to"):
            settings(tmp_path, **above)
    assert settings(tmp_path, max_image_bytes=10_000).source_pairs.max_image_bytes == 10_000


def test_each_image_is_decoded_once(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 1)
    index = ImageIndex(max_pixels=1000)
    first = index.image_id(str(tmp_path / "a.jpg"))
    (tmp_path / "a.jpg").unlink()
    assert index.image_id(str(tmp_path / "a.jpg")) == first
    for _ in range(2):
        with pytest.raises(ImageFault):
            index.image_id(str(tmp_path / "b.jpg"))
    write_image(tmp_path / "b.jpg", 2)
    with pytest.raises(ImageFault):
        index.image_id(str(tmp_path / "b.jpg"))


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b\u00a0", "\0"])
def test_text_without_a_visible_character_is_empty(text: str) -> None:
    assert text_fault([{"role": "user", "content": "?"}, {"role": "assistant", "content": text}])[0] == "empty_text"  # type: ignore[index]


@pytest.mark.parametrize("text", [".", "川の橋", "\u0645\u064a\u0646\u0627\u0621", "a\0b"])
def test_text_with_a_visible_character_is_valid(text: str) -> None:
    assert text_fault(caption(text)) is None


KEYS = st.sampled_from(["a", "b", "c", "d", "\udcff"])
IMAGES = st.sampled_from(["one.jpg", "two.jpg", "gone.jpg", "empty.jpg", "na\udce9me.jpg", "nul\0.jpg"])
ROWS = st.builds(
    SourceRow,
    key=st.text(max_size=3) | KEYS,
    image=IMAGES,
    messages=st.lists(st.builds(lambda text: caption(text)[0], st.text(max_size=4) | KEYS), min_size=1, max_size=2),
    task=st.just("caption"),
    source=st.just("human"),
    split=st.sampled_from([None, "train", "validation", "test"]),
    scene_class=st.none(),
)
FAULTS = st.builds(RowFault, key=KEYS, reason=st.just("not_text"), detail=st.just("?"))


@hypothesis.settings(deadline=None)
@given(entries=st.lists(ROWS | FAULTS, max_size=25))
def test_every_row_is_kept_or_quarantined(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "property"
    if not folder.exists():
        for seed, name in enumerate(("one.jpg", "two.jpg")):
            write_image(folder / name, seed)
        (folder / "empty.jpg").write_bytes(b"")
    located = [
        SourceRow(**{**vars(entry), "image": str(folder / entry.image)}) if isinstance(entry, SourceRow) else entry
        for entry in entries
    ]
    quarantine = Quarantine("property")
    try:
        clean = check_rows(located, ImageIndex(10_000), quarantine)
    except DataError:
        clean = []
    samples = [(row.row.key, {"sample_id": row.image_id + row.row.messages[0]["content"]}) for row in clean]
    kept = drop_repeats(samples, quarantine)
    assert len(kept) + len(quarantine.rows) == len(entries)
    assert len({sample["sample_id"] for sample in kept}) == len(kept)
    splits: dict[str, set[str | None]] = {}
    for row in clean:
        splits.setdefault(row.image_id, set()).add(row.row.split)
    assert all(len(found) == 1 for found in splits.values())
    for row in quarantine.rows:
        assert row["reason"]
        (row["sample_id"] + row["detail"]).encode()


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file to read"):
        read_source(SourceFile(format="scenes", path=str(tmp_path)))
