from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.claims import read_claims
from rsqa_pipeline.scenes.marks import Marks, mark_caption
from rsqa_pipeline.scenes.perception import HARD_SCENES, confuse_hard_terms
from rsqa_pipeline.scenes.truth import SceneTruth, sample_scene

SCENES_WITH_OBJECTS = [scene for scene in map(sample_scene, range(150)) if scene.groups]


def write(captioner: str, scene: SceneTruth) -> str:
    return CAPTIONERS[captioner](scene, np.random.default_rng(scene.seed))


@cache
def mean_marks(captioner: str) -> Marks:
    marks = [mark_caption(scene, write(captioner, scene)) for scene in SCENES_WITH_OBJECTS]
    return Marks(*(float(np.mean([getattr(m, f.name) for m in marks])) for f in fields(Marks)))


def test_the_expert_says_everything_and_only_what_is_there(any_scene: SceneTruth) -> None:
    claims = read_claims(write("expert", any_scene))
    assert claims.scenes == {any_scene.scene_class}
    assert [(m.object_class, m.colour, m.count, m.place) for m in claims.mentions] == [
        (g.object_class, g.colour, g.count, g.place) for g in any_scene.groups
    ]
    assert mark_caption(any_scene, write("expert", any_scene)).mean == 5


@pytest.mark.parametrize("captioner", [name for name in CAPTIONERS if name != "expert"])
def test_every_other_captioner_is_worse(captioner: str) -> None:
    assert mean_marks(captioner).mean < mean_marks("expert").mean - 0.3


def test_a_correct_short_caption_beats_every_wrong_one() -> None:
    wrong = set(CAPTIONERS) - {"expert", "plain", "forgetful"}
    assert all(mean_marks(name).mean < mean_marks("plain").mean for name in wrong)


@pytest.mark.parametrize(
    ("captioner", "fails", "keeps"),
    [
        ("swapper", ("relevance", "specificity", "completeness"), ("clarity",)),
        ("counter", ("relevance",), ("clarity", "richness")),
        ("recolourer", ("relevance",), ("clarity", "richness")),
        ("misplacer", ("relevance",), ("clarity", "richness")),
        ("generalist", (), ("clarity",)),
        ("misnamer", ("relevance",), ("clarity", "specificity")),
        ("plain", ("specificity",), ("relevance", "completeness", "clarity")),
        ("incomplete", ("completeness",), ("relevance", "clarity")),
        ("layman", ("richness",), ("relevance", "clarity")),
        ("garbler", ("clarity",), ("relevance",)),
        ("vague", ("specificity", "completeness", "richness"), ()),
        ("adder", ("relevance",), ("completeness", "clarity", "richness")),
    ],
)
def test_each_captioner_fails_in_its_own_dimensions(
    captioner: str, fails: tuple[str, ...], keeps: tuple[str, ...]
) -> None:
    marks = mean_marks(captioner)
    assert all(getattr(marks, name) < 3.1 for name in fails)
    assert all(getattr(marks, name) > 4.6 for name in keeps)


@pytest.mark.parametrize(
    ("change", "dimension"),
    [
        (lambda text: text.replace("open water", "open water and dunes"), "relevance"),
        (lambda text: text.replace("two red", "two"), "specificity"),
        (lambda text: text.partition(" one white")[0], "completeness"),
        (lambda text: text.replace("this is", "this is is").replace("ships are", "ships ships are are"), "clarity"),
        (lambda text: text.replace(" with piers and open water", ""), "richness"),
    ],
)
def test_each_dimension_can_change_alone(harbour: SceneTruth, change: Callable[[str], str], dimension: str) -> None:
    text = (
        "this is a harbour with piers and open water. two red ships are moored on the left."
        " one white tank is built in the top right."
    )
    before, after = mark_caption(harbour, text), mark_caption(harbour, change(text))
    assert before == Marks(5, 5, 5, 5, 5)
    changed = {f.name for f in fields(Marks) if getattr(before, f.name) != getattr(after, f.name)}
    assert changed == {dimension}


def test_habits_are_consistent() -> None:
    """The swapper calls every tank a house; the counter always counts two too many."""
    for scene in SCENES_WITH_OBJECTS:
        swapped = {m.object_class for m in read_claims(write("swapper", scene)).mentions}
        if scene.group_of("tank"):
            assert "house" in swapped
        counted = read_claims(write("counter", scene)).mentions
        assert all(m.count == scene.count_of(m.object_class) + 2 for m in counted)


@pytest.mark.parametrize(
    ("scene_class", "objects", "named", "said"),
    [
        ("harbour", ("ship", "tank"), "beach", ("ship", "house")),
        ("beach", ("ship", "tree"), "beach", ("ship", "tree")),
        ("parking", ("car", "truck"), "parking", ("car", "pool")),
        ("stadium", ("court", "pool"), "golf_course", ("warehouse", "truck")),
        ("dense_residential", ("court", "warehouse"), "storage_tanks", ("court", "warehouse")),
        ("desert", ("tank", "house"), "parking", ("tank", "house")),
        ("airport", (), "airport", ()),
    ],
)
def test_the_generalist_confuses_hard_terms_alone(
    harbour: SceneTruth, scene_class: str, objects: tuple[str, ...], named: str, said: tuple[str, ...]
) -> None:
    """An object keeps its name where its counterpart is in the scene too."""
    groups = tuple(replace(g, object_class=name) for g, name in zip(harbour.groups, objects, strict=False))
    scene = replace(harbour, scene_class=scene_class, groups=groups)
    claims = read_claims(write("generalist", scene))
    assert claims.scenes == {named}
    assert tuple(m.object_class for m in claims.mentions) == said
    right = scene_class == named and objects == said
    assert (mark_caption(scene, write("generalist", scene)).mean == 5) == right


def test_the_generalist_is_always_wrong_in_the_same_way() -> None:
    for scene in SCENES_WITH_OBJECTS:
        seen = confuse_hard_terms(scene)
        assert read_claims(write("generalist", scene)).scenes == {HARD_SCENES.get(scene.scene_class, scene.scene_class)}
        assert len({group.object_class for group in seen.groups}) == len(scene.groups)


def test_the_vocabulary_is_closed_and_small() -> None:
    words: set[str] = set()
    for name in CAPTIONERS:
        for scene in SCENES_WITH_OBJECTS:
            words.update(re.findall("[a-z]+", write(name, scene)))
    assert 100 < len(words) < 150
