from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rsqa_pipeline.scenes import truth as truth_module
from rsqa_pipeline.scenes.truth import IMAGE_SIZE, SceneTruth, relations, sample_scene
from rsqa_pipeline.scenes.vocabulary import OBJECTS, PLACES, SCENES

seeds = st.integers(0, 20_000_000)


@given(seeds)
def test_a_scene_follows_its_seed_and_its_class(seed: int) -> None:
    scene = sample_scene(seed)
    assert scene == sample_scene(seed)
    kind = SCENES[scene.scene_class]
    assert kind.gsd[0] <= scene.gsd <= kind.gsd[1]
    assert len(scene.groups) <= 2
    assert len({group.object_class for group in scene.groups}) == len(scene.groups)
    for group in scene.groups:
        assert group.object_class in kind.objects
        assert group.colour not in kind.hidden_colours
        low, high = OBJECTS[group.object_class].length
        assert low <= group.length <= high
        assert 7.9 <= group.length / scene.gsd <= 16
        assert 1 <= group.count <= 6
        assert group.count == len(group.boxes) == len(group.headings)


@given(seeds)
def test_objects_lie_where_the_place_says(seed: int) -> None:
    middle = IMAGE_SIZE / 2
    for group in sample_scene(seed).groups:
        x, y = PLACES[group.place]
        for x0, y0, x1, y1 in group.boxes:
            assert 0 <= x0 < x1 <= IMAGE_SIZE
            assert 0 <= y0 < y1 <= IMAGE_SIZE
            assert x * ((x0 + x1) / 2 - middle) >= 0
            assert y * ((y0 + y1) / 2 - middle) >= 0


@given(seeds)
def test_a_group_in_a_half_spans_two_quadrants(seed: int) -> None:
    for group in sample_scene(seed).groups:
        x, y = PLACES[group.place]
        if x == 0 or y == 0:
            along = 1 if y == 0 else 0
            sides = {(box[along] + box[along + 2]) / 2 > IMAGE_SIZE / 2 for box in group.boxes}
            assert sides == {True, False}


@given(seeds)
def test_two_groups_have_a_relation_that_reverses(seed: int) -> None:
    scene = sample_scene(seed)
    if len(scene.groups) == 2:
        first, second = (group.place for group in scene.groups)
        forth, back = relations(first, second), relations(second, first)
        assert len(forth) == len(back) > 0
        assert not set(forth) & set(back)


def test_relations_by_hand() -> None:
    assert relations("left", "right") == ("to the left of",)
    assert relations("bottom right", "top left") == ("to the right of", "below")
    assert relations("top", "bottom left") == ("above",)
    assert relations("left", "top") == ()


def test_ships_float_on_water() -> None:
    for seed in range(400):
        scene = sample_scene(seed)
        ships = scene.group_of("ship")
        if ships:
            x, y = PLACES[ships.place]
            sx, sy = PLACES[scene.side]
            assert x * sx + y * sy > 0


def test_counts_of_absent_objects_are_zero(any_scene: SceneTruth) -> None:
    shown = {group.object_class for group in any_scene.groups}
    assert {name for name in OBJECTS if any_scene.count_of(name)} == shown


def test_seed_ranges_do_not_overlap() -> None:
    names = ("CORPUS_SEEDS", "INSTRUCTION_SEEDS", "BENCHMARK_SEEDS", "PROBE_SEEDS", "PRETRAIN_SEEDS")
    ranges = sorted((getattr(truth_module, name) for name in names), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in pairwise(ranges))


def test_every_class_colour_and_place_occurs() -> None:
    scenes = [sample_scene(seed) for seed in range(1500)]
    groups = [group for scene in scenes for group in scene.groups]
    assert {scene.scene_class for scene in scenes} == set(SCENES)
    assert {group.object_class for group in groups} == set(OBJECTS)
    assert {group.place for group in groups} == set(PLACES)
    assert {group.count for group in groups} == set(range(1, 7))
    assert {len(scene.groups) for scene in scenes} == {0, 1, 2}
