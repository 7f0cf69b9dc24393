"""Corruption: each habit checked by hand; habits are repeatable; which texts a run changes and which it does not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.profile import Corruption
from rsqa_pipeline.records import read_table
from rsqa_pipeline.source_pairs import image_text_pairs
from rsqa_pipeline.source_pairs.corruption import (
    TRUE_QUALITY,
    CaptionPool,
    CorruptionKind,
    corrupt,
    swapped_class,
)
from rsqa_pipeline.tracking.run_logger import SilentLogger
from tests.source_pairs.generated import settings, write_karpathy

ALL = Corruption(share=0.7, sources=["class_swap", "count_change", "vague", "wrong_image"])


def row(image_id: str, scene_class: str | None, text: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "scene_class": scene_class,
        "messages": [{"role": "assistant", "content": text}],
    }


POOL = CaptionPool.of(
    [
        row("1" * 64, "airport", "planes on a runway ."),
        row("2" * 64, "port", "ships in a port ."),
        row("5" * 64, "port", "boats in a port ."),
        row("9" * 64, "beach", "a beach ."),
    ]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("many planes are parked next to a long building in an airport .",
         "many ships are parked next to a long tank in a port ."),
        ("An airport with two runways", "A port with two piers"),
        ("a baseball field is near some churches .", "a pond is near some centers ."),
        ("storage tanks are in a factory .", "office blocks are in a storage tank ."),
        ("a dense residential area .", "a medium residential area ."),
        ("it is green here .", None),
        ("cargo carriers", None),
    ],
)  # fmt: skip
def test_class_swap(text: str, expected: str | None) -> None:
    assert corrupt(text, "class_swap", "k", "1" * 64, "airport", POOL) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("many planes and two cars .", "three planes and three cars ."),
        ("three ponds", "seven ponds"),
        ("A lot of trees", "Three trees"),
        ("12 boats", "three boats"),
        ("a river is winding .", "a river is winding and there are three of them ."),
        ("manys", "manys and there are three of them ."),
    ],
)
def test_count_change(text: str, expected: str) -> None:
    assert corrupt(text, "count_change", "k", "1" * 64, "airport", POOL) == expected


def test_vague_names_nothing_and_varies_a_little() -> None:
    texts = [corrupt("a plane .", "vague", str(i), "1" * 64, "airport", POOL) for i in range(300)]
    assert 40 < len(set(texts)) <= 90
    assert not any("plane" in text for text in texts if text)


def test_wrong_image_uses_a_caption_of_the_confused_class() -> None:
    texts = {corrupt("x", "wrong_image", str(i), "1" * 64, "airport", POOL) for i in range(40)}
    assert texts == {"ships in a port .", "boats in a port ."}
    unknown = {corrupt("x", "wrong_image", str(i), "2" * 64, None, POOL) for i in range(80)}
    assert unknown == {"planes on a runway .", "boats in a port .", "a beach ."}
    alone = CaptionPool.of([row("1" * 64, "airport", "planes .")])
    assert corrupt("planes .", "wrong_image", "k", "1" * 64, "airport", alone) is None


def test_every_class_is_confused_with_one_fixed_class() -> None:
    known = ["airport", "port", "beach", "my_class", "your_class"]
    swaps = {name: swapped_class(name, known) for name in known}
    assert swaps == {
        "airport": "port",
        "port": "beach",
        "beach": "my_class",  # its fixed partner, desert, is not in this corpus: the next in order
        "my_class": "port",
        "your_class": "airport",
    }
    assert swapped_class("only", ["only"]) == "only"


def test_words_of_unknown_classes_are_swapped_too() -> None:
    pool = CaptionPool.of([row("1" * 64, "rice_terrace", "a"), row("2" * 64, "salt_pan", "b")])
    assert corrupt("a rice terrace .", "class_swap", "k", "1" * 64, None, pool) == "a salt pan ."


@hypothesis.settings(deadline=None)
@given(text=st.text(max_size=60), kind=st.sampled_from(get_args(CorruptionKind)), key=st.text(max_size=4))
def test_a_habit_is_repeatable_and_never_returns_the_same_text(text: str, kind: CorruptionKind, key: str) -> None:
    changed = corrupt(text, kind, key, "1" * 64, "airport", POOL)
    assert changed == corrupt(text, kind, key, "1" * 64, "airport", POOL)
    assert changed != text
    assert changed is None or changed.strip()


def run(folder: Path, corruption: Corruption | None = ALL) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    out = folder / "out"
    image_text_pairs.run({}, out, settings(folder, corruption), SilentLogger())
    samples = read_table(out / "samples.parquet")
    truth = {row["sample_id"]: row for row in read_table(out / "truth.parquet")}
    return samples, truth


def test_only_the_corpus_is_corrupted_and_everything_is_recorded(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path, {"train": 120, "val": 6, "test": 6})
    originals = {s["raw"] for image in content["images"] for s in image["sentences"]}
    samples, truth = run(tmp_path)
    assert {row["sample_id"] for row in samples} == set(truth)
    kinds = Counter(truth[row["sample_id"]]["corruption"] for row in samples if row["split"] == "corpus")
    corpus = sum(kinds.values())
    assert set(kinds) == {None, *get_args(CorruptionKind)}
    assert 0.6 < 1 - kinds[None] / corpus < 0.8
    assert all(kinds[kind] > 0.08 * corpus for kind in get_args(CorruptionKind))
    for sample in samples:
        known = truth[sample["sample_id"]]
        text = sample["messages"][0]["content"]
        assert sample["true_quality"] == TRUE_QUALITY[known["corruption"]]
        if known["corruption"] is None:
            assert (sample["source"], known["original_text"]) == ("human", None)
            assert text in originals
        else:
            assert sample["split"] == "corpus"
            assert sample["source"] == known["corruption"]
            assert known["original_text"] in originals
            assert known["original_text"] != text


def test_without_corruption_the_truth_is_unknown(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    samples, truth = run(tmp_path, None)
    assert {row["true_quality"] for row in samples} == {None}
    assert {row["corruption"] for row in truth.values()} == {None}


def test_changing_one_caption_changes_nothing_else(tmp_path: Path) -> None:
    content = write_karpathy(tmp_path, {"train": 60, "test": 6})
    before, truth_before = run(tmp_path)
    sentence = content["images"][17]["sentences"][3]
    old, sentence["raw"] = sentence["raw"], "three quiet words ."
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    after, truth_after = run(tmp_path)

    def texts(samples: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
        return Counter((row["image_id"], row["split"], row["messages"][0]["content"]) for row in samples)

    removed, added = texts(before) - texts(after), texts(after) - texts(before)
    copied = sum(truth["corruption"] == "wrong_image" for truth in truth_before.values())
    assert 1 <= len(removed) <= 1 + copied
    assert len(added) == len(removed)
    own = {row["image_id"] for row in before if row["image"].endswith(content["images"][17]["filename"])}
    for image_id, _, text in removed:
        assert image_id in own or text == old  # for another image: only a wrong_image copy of this caption
    assert {row["image_id"]: row["split"] for row in before} == {row["image_id"]: row["split"] for row in after}
    assert len(truth_after) == len(after)


def test_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    run(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
