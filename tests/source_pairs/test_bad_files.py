"""Real bad and odd files of every kind: each row becomes a sample or is quarantined with its reason."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.curated_subsets.scoring.engines import Engine
from rsqa_pipeline.curated_subsets.scoring.score_file import score_file
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import open_image
from rsqa_pipeline.profile import SourceFile
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.source_pairs.clean import CleanRow, ImageIndex, check_rows
from rsqa_pipeline.source_pairs.readers import read_source as reading
from rsqa_pipeline.source_pairs.readers.read_source import read_source
from rsqa_pipeline.source_pairs.source_row import SourceRow
from tests.curated_subsets.counting_scorer import CountingSpec
from tests.source_pairs.generated import two_tone_png, write_image


def clean(source: SourceFile) -> tuple[list[CleanRow], Counter[str]]:
    """The rows that ingest keeps, and the reasons of the others; no row is lost, neither here nor in scoring."""
    quarantine = Quarantine("test")
    entries = list(read_source(source))
    kept = check_rows(entries, ImageIndex(1_000_000), quarantine)
    reasons = Counter(row["reason"] for row in quarantine.rows)
    assert len(kept) + len(quarantine.rows) == len(entries)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.parquet"
        scored = score_file(CountingSpec(Path(folder) / "log"), source, out, 100, Engine("local", 1))
    assert scored.rows + scored.quarantined.total() == len(entries)
    return kept, reasons


def csv_source(folder: Path, *images: str) -> SourceFile:
    lines = "".join(f'"{name}",text\n' for name in images)
    (folder / "a.csv").write_text("image,text\n" + lines, encoding="utf-8")
    return SourceFile(format="csv", path=str(folder / "a.csv"), images=str(folder / "images"))


def captions(images: Path, count: int = 6) -> dict[str, Any]:
    """The same rows in each JSON format."""
    for number in range(count):
        write_image(images / f"{number}.jpg", number)
    names = [f"{number}.jpg" for number in range(count)]
    return {
        "karpathy": {"images": [{"filename": n, "split": "train", "sentences": [{"raw": "t"}]} for n in names]},
        "coco": {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
            "annotations": [{"id": i, "image_id": i, "caption": "t"} for i in range(count)],
        },
        "llava": [
            {"id": n, "image": n, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "t"}]}
            for n in names
        ],
    }


@pytest.mark.parametrize("form", ["karpathy", "coco", "llava"])
def test_a_corpus_that_ends_mid_record(form: str, tmp_path: Path) -> None:
    text = json.dumps(captions(tmp_path / "images")[form])
    path = tmp_path / "cut.json"
    path.write_text(text[:-8])
    kept, reasons = clean(SourceFile(format=form, path=str(path), images=str(tmp_path / "images")))  # type: ignore[arg-type]
    assert len(kept) == 5
    assert reasons == {"truncated_file": 1} | ({"no_captions": 1} if form == "coco" else {})
    path.write_text(text[:3])
    with pytest.raises(DataError, match="no row can be used"):
        clean(SourceFile(format=form, path=str(path), images=str(tmp_path / "images")))  # type: ignore[arg-type]


def test_a_csv_that_ends_within_quotes(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg", 1)
    source = csv_source(tmp_path, "a.jpg", "a.jpg")
    with (tmp_path / "a.csv").open("a") as file:
        file.write('a.jpg,"a text that\nbreaks')
    kept, reasons = clean(source)
    assert (len(kept), reasons) == (2, {"truncated_file": 1})
    (tmp_path / "a.csv").write_text('image,text\na.jpg,a 5" pipe')  # no quotes to close: they are part of the text
    kept, reasons = clean(source)
    assert kept[0].row.messages[0]["content"] == 'a 5" pipe' and not reasons


def test_a_corpus_is_streamed(tmp_path: Path) -> None:
    """A row is returned before the rest of the file is read, so a fault of the rest is reported later."""
    rows = captions(tmp_path / "images", 2)["llava"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows)[:-1] + ", {broken]")
    entries = iter(read_source(SourceFile(format="llava", path=str(path))))
    assert [next(entries).key, next(entries).key] == ["0.jpg", "1.jpg"]
    with pytest.raises(DataError, match="not valid JSON at byte"):
        next(entries)


def test_mixed_image_modes(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    modes: dict[str, Any] = {
        "deep.png": Image.fromarray(rng.integers(0, 65536, (20, 30)).astype(np.uint16)),
        "palette.png": Image.fromarray(rgb).quantize(16),
        "palette.gif": Image.fromarray(rgb).quantize(16),
        "cmyk.jpg": Image.fromarray(rgb).convert("CMYK"),
        "cmyk.tif": Image.fromarray(rgb).convert("CMYK"),
        "alpha.png": Image.fromarray(rgb).convert("RGBA"),
        "grey_alpha.png": Image.fromarray(rgb).convert("LA"),
        "grey.png": Image.fromarray(rgb).convert("L"),
        "one_bit.png": Image.fromarray(rgb).convert("1"),
        "lab.tif": Image.fromarray(rgb).convert("LAB"),
        "ycc.tif": Image.fromarray(rgb).convert("YCbCr"),
        "float.tif": Image.fromarray(rng.random((20, 30)).astype(np.float32)),
        "integers.tif": Image.fromarray(rng.integers(-9, 9**6, (20, 30)).astype(np.int32)),
    }
    for name, image in modes.items():
        image.save(folder / name)
    Image.fromarray(rgb).save(folder / "turned.jpg", exif=turned)
    kept, reasons = clean(csv_source(tmp_path, *modes, "turned.jpg"))
    assert (len(kept), reasons) == (len(modes) + 1, {})
    for row in kept:
        image = open_image(row.row.image)
        assert image.mode == "RGB"
        assert image.size == ((20, 30) if "turned" in row.row.image else (30, 20))
        assert np.asarray(image).std() > 10  # the image shows something


def test_twelve_bands(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
    (tmp_path / "images").mkdir()
    bands = np.random.default_rng(0).integers(0, 4000, (12, 20, 30)).astype(np.uint16)
    with rasterio.open(
        tmp_path / "images/a.tif", "w", driver="GTiff", count=12, height=20, width=30, dtype="uint16"
    ) as raster:
        raster.write(bands)
    kept, reasons = clean(csv_source(tmp_path, "a.tif"))
    assert (len(kept), reasons) == (1, {})
    assert kept[0].georeference is None
    assert open_image(kept[0].row.image).size == (30, 20)


def test_decompression_bombs(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg", 1)
    (tmp_path / "images/bomb.png").write_bytes(two_tone_png(30_000, 30_000))
    (tmp_path / "images/over.png").write_bytes(two_tone_png(1001, 1000))
    kept, reasons = clean(csv_source(tmp_path, "a.jpg", "bomb.png", "over.png"))
    assert (len(kept), reasons) == (1, {"too_large": 2})


def test_images_outside_their_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("images/a.jpg", "images/deep/b.jpg", "secret.jpg", "images_of_others/c.jpg"):
        write_image(tmp_path / name, len(name))
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "inner.jpg").symlink_to("deep/b.jpg")
    (images / "out").symlink_to(tmp_path / "images_of_others")
    (images / "in").symlink_to(images / "deep")
    (tmp_path / "shard.tar").write_bytes((tmp_path / "secret.jpg").read_bytes())
    fine = ["a.jpg", "deep/b.jpg", "deep/../a.jpg", str(images / "a.jpg"), "inner.jpg", "in/b.jpg", "../images/a.jpg"]
    outside = ["../secret.jpg", "../../../../etc/passwd", "/etc/passwd", str(tmp_path / "secret.jpg"), "link.jpg",
               "out/c.jpg", "../images_of_others/c.jpg", "deep/../../secret.jpg", "in/../../secret.jpg", "..", ".",
               "../shard.tar#0+100", "../x.parquet#0:image", "/etc/passwd#bands=1"]  # fmt: skip
    missing = ["gone.jpg", "nul\0.jpg", "x" * 300, "deep"]
    kept, reasons = clean(csv_source(tmp_path, *fine, *outside, *missing))
    assert len(kept) == len(fine)
    assert reasons == {"outside_root": len(outside), "missing_image": len(missing)}


@pytest.mark.parametrize("form", ["karpathy", "coco", "llava"])
def test_every_reader_refuses_images_outside_the_folder(form: str, tmp_path: Path) -> None:
    content = captions(tmp_path / "images")
    text = json.dumps(content[form]).replace("3.jpg", "../../secret.jpg").replace("4.jpg", "/etc/passwd")
    (tmp_path / "a.json").write_text(text)
    kept, reasons = clean(SourceFile(format=form, path=str(tmp_path / "a.json"), images=str(tmp_path / "images")))  # type: ignore[arg-type]
    assert (len(kept), reasons) == (4, {"outside_root": 2})


def test_the_image_folder_may_be_a_link(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere/a.jpg", 1)
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    kept, reasons = clean(csv_source(tmp_path, "a.jpg", str(tmp_path / "elsewhere/a.jpg")))
    assert (len(kept), reasons) == (2, {})


def test_links_out_of_an_image_folder_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "in/River/1.jpg", 1)
    write_image(tmp_path / "secret.jpg", 2)
    (tmp_path / "in/River/2.jpg").symlink_to(tmp_path / "secret.jpg")
    kept, reasons = clean(SourceFile(format="image_folder", path=str(tmp_path / "in")))
    assert (len(kept), reasons) == (1, {"outside_root": 1})


def test_relative_images_belong_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process may read two projects; the folder of the first says nothing about the images of the second."""
    for project in ("first", "second"):
        write_image(tmp_path / project / "a.jpg", 1)
        (tmp_path / project / "pairs.csv").write_text("image,text\na.jpg,a ship\n")
        monkeypatch.chdir(tmp_path / project)
        kept, reasons = clean(SourceFile(format="csv", path="pairs.csv"))
        assert (len(kept), reasons) == (1, {})


def test_each_image_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "images/a.jpg", 1)
    resolved = []
    is_link = os.path.islink
    monkeypatch.setattr(reading.os.path, "islink", lambda path: bool(resolved.append(path)) or is_link(path))
    assert len(list(read_source(csv_source(tmp_path, *["a.jpg"] * 50)))) == 50
    assert len([path for path in resolved if path.endswith("a.jpg")]) == 1


def test_a_conversation_of_two_hundred_turns(tmp_path: Path) -> None:
    content = captions(tmp_path / "images", 2)["llava"]
    content[0]["conversations"] = [
        {"from": role, "value": f"{role} {turn}"} for turn in range(100) for role in ("human", "gpt")
    ]
    content[1]["conversations"] = [{"from": "human", "value": "q " * 100_000}, {"from": "gpt", "value": "a " * 100_000}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    kept, reasons = clean(SourceFile(format="llava", path=str(tmp_path / "a.json"), images=str(tmp_path / "images")))
    assert not reasons
    assert [len(row.row.messages) for row in kept] == [200, 2]
    assert kept[0].row.messages[-1] == {"role": "assistant", "content": "gpt 99"}
    assert len(kept[1].row.messages[1]["content"]) == 199_999


ODD_TEXTS = [
    "a\x00b\x07\x1b[31m",
    "tab\tline\nreturn\rend",
    "ميناء فيه سفن",
    "\u202eטקסט מימין לשמאל\u202c",
    "川の橋と港",
    "한국 항구 🛰️",
    "e\u0301 \u00e9",
    "\u2028line\u2029paragraph.",
    "\ufeffmark",
]


@pytest.mark.parametrize("form", ["karpathy", "coco", "llava", "csv", "jsonl"])
@pytest.mark.parametrize("escaped", [True, False])
def test_odd_texts_pass_unchanged(form: str, escaped: bool, tmp_path: Path) -> None:
    content = captions(tmp_path / "images", len(ODD_TEXTS))
    for number, text in enumerate(ODD_TEXTS):
        content["karpathy"]["images"][number]["sentences"][0]["raw"] = text
        content["coco"]["annotations"][number]["caption"] = text
        content["llava"][number]["conversations"][1]["value"] = text
    lines = [{"image": f"{number}.jpg", "text": text} for number, text in enumerate(ODD_TEXTS)]
    if form == "csv":
        data = "image,text\n" + "".join(f'{line["image"]},"{line["text"]}"\n' for line in lines)
    elif form == "jsonl":
        data = "\n".join(json.dumps(line, ensure_ascii=escaped) for line in lines)
    else:
        data = json.dumps(content[form], ensure_ascii=escaped)
        if not escaped:  # unescaped control characters: not valid JSON, but found in practice
            data = data.replace("\\u0007", "\x07").replace("\\u001b", "\x1b").replace("\\t", "\t")
    (tmp_path / "file").write_bytes(data.encode())
    kept, reasons = clean(SourceFile(format=form, path=str(tmp_path / "file"), images=str(tmp_path / "images")))  # type: ignore[arg-type]
    assert not reasons
    assert [row.row.messages[-1]["content"] for row in kept] == [text.strip() for text in ODD_TEXTS]


def test_rows_of_every_kind_at_once(tmp_path: Path) -> None:
    """A fault of one row does not affect its neighbours."""
    for number in range(3):
        write_image(tmp_path / f"images/{number}.jpg", number)
    (tmp_path / "images/zero.jpg").write_bytes(b"")
    lines = [
        '{"image": "0.jpg", "text": "fine"}', '{"image": "zero.jpg", "text": "t"}', '{"image": "../x", "text": "t"}',
        '{"image": "1.jpg", "text": "\\u0007 "}', "[]", "{", '{"image": "1.jpg", "text": "\\ud800"}', '{"image": 3}',
        '{"image": "2.jpg", "text": "fine too"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    kept, reasons = clean(SourceFile(format="jsonl", path=str(tmp_path / "a.jsonl"), images=str(tmp_path / "images")))
    assert [row.row.messages[0]["content"] for row in kept] == ["fine", "fine too"]
    assert reasons == {"zero_bytes": 1, "outside_root": 1, "empty_text": 1, "bad_row": 2, "not_utf8": 1, "no_image": 1}
    assert all(isinstance(row.row, SourceRow) for row in kept)
