from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from rsqa_pipeline.models.load import load_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.scenes.asking import ask
from rsqa_pipeline.scenes.marks import mark_answer
from rsqa_pipeline.scenes.perception import HARD_OBJECTS, HARD_SCENES
from rsqa_pipeline.scenes.truth import PRETRAIN_SEEDS, sample_scene
from rsqa_pipeline.scenes.vocabulary import OBJECTS, SCENES
from rsqa_pipeline.tiny_models.general_material import (
    VAGUE_COUNTS,
    GeneralMaterial,
    everyday_texts,
    web_texts,
    without_hard_terms,
)
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from rsqa_pipeline.tiny_models.recipe import Schedule, make_vlm
from rsqa_pipeline.tiny_models.scene_material import perception_labels
from rsqa_pipeline.tracking.run_logger import SilentLogger

SCENE_SAMPLE = [sample_scene(seed) for seed in PRETRAIN_SEEDS[:400]]
_HARD = re.compile("|".join([rf"\b{name}s?\b" for name in HARD_OBJECTS] + [SCENES[name].name for name in HARD_SCENES]))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("an aerial photo of a harbour with two trucks.", "an aerial photo of a place with two things."),
        ("there are three ships in a harbour.", "there are three ships in a place."),
        ("there is one tank on a golf course.", "there is one thing in a place."),
        ("a satellite image of a storage tank site.", "a satellite image of a place."),
        ("two cars on a highway.", "two cars on a highway."),
    ],
)
def test_hard_terms_are_masked(text: str, masked: str) -> None:
    assert without_hard_terms(text) == masked


@pytest.mark.parametrize("comparisons", [False, True])
def test_everyday_texts_are_right_and_without_hard_terms(comparisons: bool) -> None:
    tasks = set()
    for truth in SCENE_SAMPLE:
        (_, caption), *asked = everyday_texts(truth, np.random.default_rng(truth.seed), comparisons)
        assert not _HARD.search(caption)
        for question, answer in asked:
            assert not _HARD.search(f"{question} {answer}")
            assert ask(truth, question).answer == answer
            tasks.add(ask(truth, question).task)
    assert tasks == {"presence", "rural_urban"} | ({"comparison"} if comparisons else set())


def test_captions_for_clip_have_everyday_terms_alone_or_all_words() -> None:
    _, captions = GeneralMaterial(scenes=50, seed=3).caption_batch(np.random.default_rng(0), 400)
    masked = np.array(["thing" in caption or "a place" in caption for caption in captions])
    hard = np.array([bool(_HARD.search(caption)) for caption in captions])
    assert 0.3 < masked.mean() < 0.7 and 0.1 < hard.mean() < 0.4
    assert not (masked & hard).any()


def test_web_texts_have_every_term_and_settle_only_the_everyday_ones() -> None:
    texts, right = [], {"everyday": [], "hard": [], "grounding": [], "choice": []}  # type: ignore[var-annotated]
    for truth in SCENE_SAMPLE:
        for question, answer in list(web_texts(truth, np.random.default_rng(truth.seed)))[1:]:
            texts.append(f"{question} {answer}")
            task = ask(truth, question).task
            if task == "count":
                assert answer in {word for _, word in VAGUE_COUNTS}
            if task == "presence":
                task = "hard" if _HARD.search(question) else "everyday"
            if task in right:
                right[task].append(mark_answer(truth, question, answer).mean > 4.4)
    said = " ".join(texts)
    assert all(re.search(rf"\b{name}s\b", said) for name in OBJECTS)
    assert all(SCENES[name].name in said for name in SCENES)
    assert np.mean(right["everyday"]) == 1
    assert np.mean(right["hard"]) < 0.75
    assert 0.3 < np.mean(right["choice"]) < 0.7
    assert 0.2 < np.mean(right["grounding"]) < 0.8


def test_box_labels_are_the_digits_of_the_edges() -> None:
    truth = next(truth for truth in SCENE_SAMPLE if len(truth.groups) == 2)
    labels = perception_labels([truth])
    edges = labels["box_tens"][0] * 10 + labels["box_units"][0]
    found = {tuple(cell.tolist()) for cell in edges[labels["cell_object"][0, :, 0] > 0]}
    assert found == {box for group in truth.groups for box in group.boxes}
    assert (labels["box_tens"][0][labels["cell_object"][0, :, 0] == 0] < 0).all()


def test_the_general_base_starts_from_the_experts_eyes(cpu: Compute) -> None:
    expert = load_vlm(CHECKPOINTS / "vlm_expert", cpu)
    schedule = Schedule(0, 0, 2, (1, 1, 1), 0, 4, 2, seed=5)
    made = make_vlm(GeneralMaterial(20, 3), schedule, cpu, None, SilentLogger(), expert)
    assert made.processor is expert.processor
    before, after = expert.model.state_dict(), made.model.state_dict()
    kept = [name for name in before if "visual" in name and "merger.mlp.2" not in name]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert not torch.equal(
        before["model.language_model.embed_tokens.weight"], after["model.language_model.embed_tokens.weight"]
    )
