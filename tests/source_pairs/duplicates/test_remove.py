"""The source stages on data with near-duplicates and benchmark items: what is removed, kept and recorded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.data_quality.checks import run_checks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.images.decode import hash_image
from rsqa_pipeline.profile import Duplicates, Profile, SourceFile, load_profile
from rsqa_pipeline.records import Metrics, read_table
from rsqa_pipeline.source_pairs import benchmark_sets, image_text_pairs, instruction_samples
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.duplicates.planted import cropped, encoded
from tests.source_pairs.generated import settings

TEST_TEXT = "four orange boats lie at a narrow wooden pier beside the old grey harbour wall in the evening ."


def write_picture(path: Path, seed: int, side: int = 96) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    image.save(path)
    return image


class DataSet:
    """Twelve different training images and two test images; tests add more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.entries: list[dict[str, Any]] = []
        self.pictures = [self.add(write_picture(self.path(f"port_{n}"), n), f"port_{n}") for n in range(12)]
        self.tests = [
            self.add(write_picture(self.path(f"port_t{n}"), 100 + n), f"port_t{n}", split="test") for n in range(2)
        ]

    def path(self, name: str) -> Path:
        return self.images / f"{name}.png"

    def add(self, image: Image.Image, name: str, *texts: str, split: str = "train") -> Image.Image:
        image.save(self.path(name))
        sentences = [{"raw": text} for text in texts or (f"a text about {name} .",)]
        self.entries.append({"filename": f"{name}.png", "split": split, "sentences": sentences})
        return image

    def image_id(self, name: str) -> str:
        return hash_image(self.path(name).read_bytes())

    def profile(self, **changes: Any) -> Profile:
        (self.folder / "dataset.json").write_text(json.dumps({"images": self.entries}))
        return settings(self.folder, **{"duplicates": Duplicates(), **changes})


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path)


def run(stage: Any, data: DataSet, profile: Profile) -> tuple[Metrics, Path]:
    benchmark, out = data.folder / "benchmark_sets", data.folder / stage.__name__.rpartition(".")[2]
    for folder in (benchmark, out):
        folder.mkdir(exist_ok=True)
    benchmark_sets.run({}, benchmark, profile, SilentLogger())
    metrics = stage.run({"benchmark_sets": benchmark}, out, profile, SilentLogger())
    quarantine = read_table(out / "quarantine.parquet")
    assert metrics["input_rows"] == metrics["kept_rows"] + metrics["quarantined_rows"]
    assert metrics["kept_rows"] == len(read_table(out / "samples.parquet"))
    assert metrics["quarantined_rows"] == len(quarantine)
    assert all(row["sample_id"] and row["detail"] for row in quarantine)
    return metrics, out


def test_each_component_keeps_the_image_with_most_pixels(data: DataSet) -> None:
    rng = np.random.default_rng(0)
    large = data.pictures[0].resize((200, 200), Image.Resampling.BICUBIC)
    data.add(large, "port_large", "a large copy .", "the same large copy .")
    data.add(encoded(cropped(data.pictures[0].rotate(90), rng), 80), "port_crop")
    data.add(data.pictures[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT), "port_mirror")
    metrics, out = run(image_text_pairs, data, data.profile())
    samples = read_table(out / "samples.parquet")
    removed = {data.image_id(name) for name in ("port_0", "port_crop")} | {
        max(data.image_id("port_1"), data.image_id("port_mirror"))
    }
    kept = {row["image_id"] for row in samples}
    assert metrics["quarantined/near_duplicate"] == 3
    assert metrics["near_duplicate_components"] == 2
    assert not removed & kept and len(kept) == 14
    table = {row["image_id"]: row for row in read_table(out / "components.parquet")}
    assert {image_id for image_id, row in table.items() if not row["kept"]} == removed
    for name in ("port_0", "port_crop", "port_large"):
        row = table[data.image_id(name)]
        assert row["component"] == data.image_id("port_large")
        assert row["kind"] == "perceptual" and row["similarity"] >= 0.88
        assert table[row["other_image_id"]]["component"] == row["component"]
    alone = table[data.image_id("port_5")]
    assert (alone["component"], alone["kept"], alone["other_image_id"]) == (data.image_id("port_5"), True, None)
    details = [row["detail"] for row in read_table(out / "quarantine.parquet")]
    assert sum(data.image_id("port_large") in detail for detail in details) == 2


def test_only_exact_repeats_are_removed_without_the_section(data: DataSet) -> None:
    data.add(data.pictures[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT), "port_mirror")
    metrics, out = run(image_text_pairs, data, data.profile(duplicates=None))
    assert metrics["quarantined_rows"] == 0
    assert not (out / "components.parquet").exists()


def test_benchmark_images_and_texts_are_not_trained_on(data: DataSet) -> None:
    data.add(write_picture(data.path("port_t9"), 109), "port_t9", TEST_TEXT, split="test")
    data.add(data.tests[0].transpose(Image.Transpose.ROTATE_90), "port_turned", "one .", "two .")
    bigger = write_picture(data.path("port_bigger"), 300, 120)
    data.add(bigger.crop((6, 4, 114, 112)), "port_t8", "the middle of a picture .", split="test")
    data.add(bigger, "port_bigger", "a test image is a crop of this .")
    data.add(write_picture(data.path("port_said"), 301), "port_said", TEST_TEXT, "another text .")
    metrics, out = run(image_text_pairs, data, data.profile())
    assert metrics["quarantined/in_benchmark"] == 4
    samples = read_table(out / "samples.parquet")
    assert Counter(row["split"] for row in samples)["test"] == 4
    said = [row for row in samples if row["image_id"] == data.image_id("port_said")]
    assert [row["messages"][0]["content"] for row in said] == ["another text ."]
    ledger = read_table(out / "decontamination.parquet")
    items = {row["item_id"]: row for row in read_table(data.folder / "benchmark_sets" / "items.parquet")}
    evidence = {(row["kind"], items[row["item_id"]]["image_id"]) for row in ledger}
    assert evidence == {
        ("near_image", data.image_id("port_t0")),
        ("near_image", data.image_id("port_t8")),
        ("shared_text", data.image_id("port_t9")),
    }
    assert {row["benchmark"] for row in ledger} == {"benchmark_sets"}
    quarantined = [row["sample_id"] for row in read_table(out / "quarantine.parquet")]
    assert {row["sample_id"] for row in ledger} == set(quarantined)


def assets_with(profile: Profile) -> dict[str, Asset]:
    """The table of the demo with the source files of ``profile``."""
    return assets_of(load_profile("demo").model_copy(update={"source_pairs": profile.source_pairs}))


def test_further_benchmarks(data: DataSet) -> None:
    folder = data.folder / "other"
    folder.mkdir()
    (folder / "same.png").write_bytes(data.path("port_3").read_bytes())
    encoded(data.pictures[4], 60).save(folder / "near.png")
    (folder / "broken.png").write_bytes(b"no image")
    rows = "".join(f"{name}.png,a text\n" for name in ("same", "near", "broken"))
    (folder / "test.csv").write_text("image,text\n" + rows)
    other = SourceFile(format="csv", path=str(folder / "test.csv"))
    profile = data.profile(duplicates=Duplicates(benchmarks={"other": other}))
    metrics, out = run(image_text_pairs, data, profile)
    assert metrics["quarantined/in_benchmark"] == 2
    assert metrics["unreadable_benchmark_rows"] == 1
    ledger = read_table(out / "decontamination.parquet")
    assert {(row["benchmark"], row["kind"]) for row in ledger} == {("other", "same_image"), ("other", "near_image")}
    for asset in ("image_text_pairs", "instruction_samples"):
        assert folder / "test.csv" in map(Path, assets_with(profile)[asset].sources)
    assert folder / "test.csv" not in map(Path, assets_with(profile)["benchmark_sets"].sources)


def test_a_benchmark_without_a_readable_row_is_an_error(data: DataSet) -> None:
    (data.folder / "test.csv").write_text("image,text\nnowhere.png,a text\n")
    other = SourceFile(format="csv", path=str(data.folder / "test.csv"))
    with pytest.raises(DataError, match=r"no row can be used.*missing_image: 1"):
        run(image_text_pairs, data, data.profile(duplicates=Duplicates(benchmarks={"other": other})))


def test_near_images_with_different_questions_are_kept(data: DataSet) -> None:
    data.add(data.pictures[0].transpose(Image.Transpose.ROTATE_180), "port_turned")
    asked = {
        "port_0": "how many boats are at the pier ?", "port_turned": "how many boats are at the pier ?",
        "port_1": "how many boats are at the pier ?",
    }  # fmt: skip
    rows = list(asked.items())
    rows += [("port_turned", "what colour is the storage tank ?"), ("port_0", "is this a rural or urban area ?")]
    rows += [(f"port_{n}", "what is in the middle ?") for n in range(2, 12)]
    content = [
        {
            "id": str(number), "image": f"{name}.png",
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "an answer"}],
        }
        for number, (name, question) in enumerate(rows)
    ]  # fmt: skip
    (data.folder / "llava.json").write_text(json.dumps(content))
    source = SourceFile(format="llava", path=str(data.folder / "llava.json"), images=str(data.images))
    metrics, out = run(instruction_samples, data, data.profile(instructions=source, instruction_samples=100))
    assert metrics["quarantined/near_duplicate"] == 1 == metrics["quarantined_rows"]
    removed = read_table(out / "quarantine.parquet")[0]
    first, second = sorted([data.image_id("port_0"), data.image_id("port_turned")])
    kept = {row["sample_id"]: row for row in read_table(out / "samples.parquet")}
    assert f"kept is image {first}" in removed["detail"] and second in removed["detail"]
    kept_id = removed["detail"].rpartition(" ")[2]
    assert kept[kept_id]["image_id"] == first
    assert kept[kept_id]["messages"][0]["content"] == "how many boats are at the pier ?"
    assert all(row["kept"] for row in read_table(out / "components.parquet"))


def test_checks_pass_and_cover_the_side_tables(data: DataSet) -> None:
    data.add(data.tests[0].transpose(Image.Transpose.ROTATE_90), "port_turned")
    profile = data.profile()
    metrics, out = run(image_text_pairs, data, profile)
    checks = {
        check.name: check for check in run_checks(assets_with(profile)["image_text_pairs"], out, metrics, profile)
    }
    assert all(check.passed for check in checks.values()), checks
    (out / "decontamination.parquet").write_bytes((out / "quarantine.parquet").read_bytes())
    checks = {
        check.name: check for check in run_checks(assets_with(profile)["image_text_pairs"], out, metrics, profile)
    }
    assert not checks["great_expectations"].passed


def test_a_rerun_gives_the_same_bytes(data: DataSet) -> None:
    data.add(encoded(data.pictures[2], 50), "port_jpeg")
    profile = data.profile()
    first = {path.name: path.read_bytes() for path in run(image_text_pairs, data, profile)[1].iterdir()}
    data.entries.reverse()
    _, out = run(image_text_pairs, data, data.profile())
    assert first["components.parquet"] == (out / "components.parquet").read_bytes()
    data.entries.reverse()
    _, out = run(image_text_pairs, data, data.profile())
    assert first == {path.name: path.read_bytes() for path in out.iterdir()}
