"""Items of the reward bench: one per kind and image, balanced on scenes, absent where captions do not allow a kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.scenes.truth import BENCHMARK_SEEDS, sample_scene
from rsqa_pipeline.source_pairs.caption_faults import WORD_CHANGES, CaptionedImage
from rsqa_pipeline.source_pairs.from_scenes import benchmark_items
from rsqa_pipeline.source_pairs.reward_items import REWARD_TASKS, degenerate_set, file_reward_items, scene_reward_items

CLASSES = ["airport", "church", "port", "river", "storage_tanks"]


def image(*captions: str, scene_class: str | None = "airport") -> CaptionedImage:
    return CaptionedImage(captions, scene_class, CLASSES, "7/image")


def test_kinds_are_balanced_on_scenes(tmp_path: Path) -> None:
    items = [
        item
        for item in benchmark_items(12, 7, tmp_path, Quarantine("benchmark_sets"))
        if item["task"].startswith("reward_")
    ]
    assert Counter(item["task"] for item in items) == dict.fromkeys(REWARD_TASKS, 12)
    assert len({item["item_id"] for item in items}) == len(items)
    for item in items:
        assert len(set(item["choices"])) == 4 and item["choices"].count(item["answer"]) == 1
        assert (item["question"] is not None) == (item["task"] == "reward_unanswerable")
    places = Counter(item["choices"].index(item["answer"]) for item in items)
    assert min(places[place] for place in range(4)) > 10  # the right text's place gives nothing away


def test_items_depend_on_the_scene_and_the_seed_alone() -> None:
    truth = sample_scene(BENCHMARK_SEEDS[3])
    assert scene_reward_items(truth, 7) == scene_reward_items(truth, 7) != scene_reward_items(truth, 8)


@pytest.mark.parametrize(
    ("kind", "caption", "wrong"),
    [
        ("count", "two planes and three cars .", {f"{n} planes and three cars ." for n in ("four", "ten", "nine")}),
        ("colour", "a white roof by a red one .", {"a blue roof by a red one .", "a green roof by a red one ."}),
        ("place", "a church is near a river .", {"a church is far from a river ."}),
        ("place", "a lawn in the center of a park", {"a lawn in the corner of a park", "a lawn outside of a park"}),
        ("class", "an airport and airports .", {"a port and ports .", "a storage tank and storage tanks ."}),
        ("invented_object", "a grey road .", {"a grey road . there is also a ship ."}),
    ],
)
def test_words_of_a_human_caption_are_changed(kind: str, caption: str, wrong: set[str]) -> None:
    made = WORD_CHANGES[kind](caption, image(caption))
    assert wrong <= set(made) and caption not in made
    assert made == WORD_CHANGES[kind](caption, image(caption))


@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("count", "many planes ."),  # "many" is not a number that another one contradicts
        ("count", "one plane is parked ."),  # another number would break the grammar too
        ("colour", "a large roof ."),
        ("place", "there are planes ."),
        ("class", "many planes are parked ."),
    ],
)
def test_a_caption_without_the_word_gives_nothing(kind: str, caption: str) -> None:
    assert WORD_CHANGES[kind](caption, image(caption)) == []


def test_what_another_caption_says_is_not_wrong() -> None:
    colours = WORD_CHANGES["colour"]("a white roof .", image("a white roof .", "a grey roof and a red wall ."))
    assert not {"a gray roof .", "a red roof ."} & set(colours) and "a blue roof ." in colours
    objects = " ".join(WORD_CHANGES["invented_object"]("a road .", image("a road .", "boats .", scene_class="bridge")))
    assert not any(name in objects for name in ("ship", "bridge")) and "train" in objects


def test_kinds_that_captions_do_not_allow_are_absent() -> None:
    tasks = [item["task"] for item in file_reward_items(image("many planes ."))]
    assert tasks == ["reward_invented_object", "reward_unanswerable", "reward_empty_or_repeated"]
    assert [item["task"] for item in file_reward_items(image(scene_class=None))] == ["reward_unanswerable"]
    full = [item["task"] for item in file_reward_items(image("two white planes near a church in an airport ."))]
    assert sorted(full) == sorted(REWARD_TASKS)


def test_degenerate_texts_are_empty_or_repeat_the_right_one() -> None:
    right = "a b c d"
    assert degenerate_set(right).wrong == ("", "a b c d a b c d", "a b c d" + " b c d" * 5)
