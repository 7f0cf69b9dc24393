"""The committed checkpoints load, are small and know the scenes. Bounds are well below the model card's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from rsqa_pipeline.models.load import load_clip, load_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.perception import HARD_SCENES
from rsqa_pipeline.scenes.questions import BENCHMARK_TASKS, ask, benchmark_questions
from rsqa_pipeline.scenes.truth import PROBE_SEEDS
from rsqa_pipeline.scenes.vocabulary import SCENES
from rsqa_pipeline.tiny_models.measure import answers, captions, image_text_cosines, retrieval_recall
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from rsqa_pipeline.tiny_models.scene_accuracy import is_right, names_hard_object
from rsqa_pipeline.tiny_models.scene_material import ScenePool


@pytest.fixture(scope="module")
def fresh() -> ScenePool:
    return ScenePool(PROBE_SEEDS[2000:2100])


def test_checkpoints_have_at_most_16_megabytes_and_no_pickle() -> None:
    files = [file for file in CHECKPOINTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".jinja"}
    assert (CHECKPOINTS / "README.md").is_file()


def test_the_experts_captions_name_the_scene_class(fresh: ScenePool, cpu: Compute) -> None:
    texts = captions(load_vlm(CHECKPOINTS / "vlm_expert", cpu), fresh.images)
    named = np.mean([SCENES[t.scene_class].name in text for t, text in zip(fresh.truths, texts, strict=True)])
    assert named > 0.8


def test_the_general_base_sees_and_answers_but_does_not_know_the_domain(fresh: ScenePool, cpu: Compute) -> None:
    """Everyday terms are far better than hard ones, and there is room for tuning everywhere."""
    vlm = load_vlm(CHECKPOINTS / "vlm", cpu)
    rng = np.random.default_rng(0)
    asked = [(row, q) for row, truth in enumerate(fresh.truths) for q in benchmark_questions(truth, rng)]
    asked += [(row, ask(truth, "what class of scene is this?")) for row, truth in enumerate(fresh.truths)]
    replies = answers(vlm, fresh.images[[row for row, _ in asked]], [q.question for _, q in asked])
    right: dict[str, list[bool]] = {}
    for (row, question), text in zip(asked, replies, strict=True):
        hard = names_hard_object(question.question)
        if question.task == "scene_class":
            hard = fresh.truths[row].scene_class in HARD_SCENES
        right.setdefault(question.task, []).append(is_right(question, text))
        right.setdefault(f"{'hard' if hard else 'everyday'} {question.task}", []).append(is_right(question, text))
    shares = {name: float(np.mean(values)) for name, values in right.items()}
    tasks = (*BENCHMARK_TASKS, "scene_class")
    assert 0.4 < np.mean([shares[task] for task in tasks]) < 0.7
    assert shares["rural_urban"] > 0.9
    assert shares["everyday presence"] > 0.75
    assert shares["everyday scene_class"] > 0.6 > 0.45 > shares["hard scene_class"]
    assert shares["choice"] < 0.65 and shares["grounding"] < 0.4


def test_clip_finds_captions_and_knows_the_everyday_classes(fresh: ScenePool, cpu: Compute) -> None:
    clip = load_clip(CHECKPOINTS / "clip", cpu)
    names = list(SCENES)
    prompts = [f"a satellite photo of {SCENES[name].phrase}." for name in names]
    predicted = image_text_cosines(clip, fresh.images, prompts).argmax(dim=1)
    known = [row for row, truth in enumerate(fresh.truths) if truth.scene_class not in HARD_SCENES]
    right = np.array([names[row] == truth.scene_class for row, truth in zip(predicted, fresh.truths, strict=True)])
    assert right[known].mean() > 0.8 > 0.5 > np.delete(right, known).mean()
    rng = np.random.default_rng(0)
    to_text, to_image = retrieval_recall(clip, fresh.images, [CAPTIONERS["expert"](t, rng) for t in fresh.truths])
    assert min(to_text, to_image) > 0.03
