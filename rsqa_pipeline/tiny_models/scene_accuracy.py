"""Accuracies of the shipped models on fresh scenes: the numbers of their model card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rsqa_pipeline.answer_matching import same_answer
from rsqa_pipeline.boxes import is_hit
from rsqa_pipeline.models.load import load_clip, load_vlm
from rsqa_pipeline.profile import Compute
from rsqa_pipeline.records import Metrics
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.marks import mark_caption
from rsqa_pipeline.scenes.perception import HARD_OBJECTS
from rsqa_pipeline.scenes.questions import Question, benchmark_questions
from rsqa_pipeline.scenes.truth import PROBE_SEEDS
from rsqa_pipeline.scenes.vocabulary import OBJECTS, SCENES
from rsqa_pipeline.tiny_models.measure import answers, captions, retrieval_recall, zero_shot_accuracy
from rsqa_pipeline.tiny_models.perception import Heads, Tower, vlm_tower
from rsqa_pipeline.tiny_models.scene_material import ScenePool

PROBE_SCENES = 1000
ASKED_SCENES = 300
RETRIEVAL_SCENES = 200
_BATCH_SIZE = 100
MEASUREMENT_COMPUTE = Compute(device="cpu", dtype="float32")
"""As the demo runs the models."""


def vlm_accuracies(folder: Path, heads: Heads) -> Metrics:
    """Probe on the vision tower, answers to the benchmark's questions, facts in captions. Shares 0..1, mark 1..5."""
    vlm = load_vlm(folder, MEASUREMENT_COMPUTE)
    metrics = _probe(vlm_tower(vlm.model), heads)
    pool = ScenePool(PROBE_SEEDS[PROBE_SCENES : PROBE_SCENES + ASKED_SCENES])
    rng = np.random.default_rng(0)
    asked = [(row, q) for row, truth in enumerate(pool.truths) for q in benchmark_questions(truth, rng)]
    replies = answers(vlm, pool.images[[row for row, _ in asked]], [q.question for _, q in asked])
    right: dict[str, list[bool]] = {}
    for (_, question), text in zip(asked, replies, strict=True):
        right.setdefault(question.task, []).append(is_right(question, text))
    metrics |= {f"answer_{task}": float(np.mean(values)) for task, values in right.items()}
    for name, wanted in (("everyday", False), ("hard", True)):
        values = [
            is_right(question, text)
            for (_, question), text in zip(asked, replies, strict=True)
            if question.task in ("presence", "count") and names_hard_object(question.question) == wanted
        ]
        metrics[f"answer_{name}_objects"] = float(np.mean(values))
    texts = captions(vlm, pool.images)
    named = [SCENES[t.scene_class].name in text for t, text in zip(pool.truths, texts, strict=True)]
    metrics["caption_names_scene_class"] = float(np.mean(named))
    marks = [mark_caption(t, text).mean for t, text in zip(pool.truths, texts, strict=True)]
    metrics["caption_true_mark"] = float(np.mean(marks))
    return metrics


def clip_accuracies(folder: Path) -> Metrics:
    """Zero-shot scene class, and retrieval of the experts' captions; shares in 0..1."""
    clip = load_clip(folder, MEASUREMENT_COMPUTE)
    pool = ScenePool(PROBE_SEEDS[PROBE_SCENES : PROBE_SCENES + ASKED_SCENES])
    names = list(SCENES)
    prompts = [f"a satellite photo of {SCENES[name].phrase}." for name in names]
    zero_shot = zero_shot_accuracy(clip, pool.images, prompts, [names.index(t.scene_class) for t in pool.truths])
    rng = np.random.default_rng(0)
    texts = [CAPTIONERS["expert"](truth, rng) for truth in pool.truths[:RETRIEVAL_SCENES]]
    to_text, to_image = retrieval_recall(clip, pool.images[:RETRIEVAL_SCENES], texts)
    return {"zero_shot_class": zero_shot, "retrieval_text_r1": to_text, "retrieval_image_r1": to_image}


def is_right(question: Question, text: str) -> bool:
    """Whether an answer is the same as the question's, or a box hits the question's."""
    return is_hit(text, question.boxes) if question.boxes else same_answer(text, question.answer)


def names_hard_object(question: str) -> bool:
    return any(f" {name}" in question for name in HARD_OBJECTS)


@torch.inference_mode()
def _probe(tower: Tower, heads: Heads) -> Metrics:
    """The linear heads' accuracies. The count of a class in an image is the number of its predicted cells."""
    pool = ScenePool(PROBE_SEEDS[:PROBE_SCENES])
    heads = heads.to("cpu")
    tokens = torch.cat([tower(pool.images[i : i + _BATCH_SIZE]).cpu() for i in range(0, PROBE_SCENES, _BATCH_SIZE)])
    shares = heads.accuracies(tokens, pool.labels)
    predicted = heads(tokens)["cell_object"].argmax(-1).squeeze(-1)
    true = pool.labels["cell_object"].squeeze(-1)
    kinds = torch.arange(1, len(OBJECTS) + 1)
    counted, expected = ((cells.unsqueeze(-1) == kinds).sum(dim=1) for cells in (predicted, true))
    return {
        "probe_scene_class": shares["scene_class"],
        "probe_object_class": float((predicted == true)[true > 0].float().mean()),
        "probe_empty_cell": float((predicted == true)[true == 0].float().mean()),
        "probe_colour": shares["cell_colour"],
        "probe_count": float((counted == expected)[expected > 0].float().mean()),
    }
