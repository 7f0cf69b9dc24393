"""Samples and test items from the embedded scenes. The scene's truth gives the true quality of every text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.forgotten import FAULT, NOTHING, Forgotten
from rsqa_pipeline.images.decode import TarImages
from rsqa_pipeline.profile import SourcePairs
from rsqa_pipeline.quarantine import Quarantine
from rsqa_pipeline.records import Message
from rsqa_pipeline.scenes.captioners import CAPTIONERS
from rsqa_pipeline.scenes.corpus import instruction_samples, read_corpus
from rsqa_pipeline.scenes.marks import mark_answer, mark_caption
from rsqa_pipeline.scenes.questions import BENCHMARK_TASKS, Question, benchmark_questions
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import (
    BENCHMARK_SEEDS,
    CORPUS_SEEDS,
    INSTRUCTION_SEEDS,
    SceneTruth,
    sample_scene,
)
from rsqa_pipeline.scenes.vocabulary import SCENES
from rsqa_pipeline.source_pairs.clean import text_fault
from rsqa_pipeline.source_pairs.reward_items import REWARD_TASKS, scene_reward_items
from rsqa_pipeline.source_pairs.sample_tables import Draft
from rsqa_pipeline.source_pairs.source_row import caption
from rsqa_pipeline.source_pairs.split import split_of

QUESTIONS_PER_SCENE = 2


class _RenderedScenes:
    """Renders each scene once, into a tar; a forgotten one is left out."""

    def __init__(self, archive: TarImages, forgotten: Forgotten) -> None:
        self._archive = archive
        self._forgotten = forgotten
        self._known: dict[int, tuple[SceneTruth, str, str]] = {}

    def get(self, scene: int) -> tuple[SceneTruth, str, str] | None:
        """Truth, image_id and image reference of the scene with this seed; None for a forgotten image."""
        if scene not in self._known:
            truth = sample_scene(scene)
            name, pixels = f"scene_{scene}.png", render(truth)
            if self._forgotten.ids:  # the id is that of the stored bytes, which must not reach the archive
                with TarImages(Path(os.devnull)) as nowhere:
                    if nowhere.add(name, pixels)[0] in self._forgotten:
                        return None
            self._known[scene] = (truth, *self._archive.add(name, pixels))
        return self._known[scene]


def caption_drafts(
    pairs: SourcePairs, seed: int, out: Path, quarantine: Quarantine, forgotten: Forgotten = NOTHING
) -> list[Draft]:
    """Reads the scenes' caption file and writes images.tar into ``out``, without what is ``forgotten``.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    assert pairs.captions.path is not None  # checked by the profile
    try:
        rows = read_corpus(Path(pairs.captions.path))
    except OSError as error:
        raise DataError(f"{pairs.captions.path} cannot be read: {error}") from error
    drafts = []
    with TarImages(out / "images.tar") as archive:
        scenes = _RenderedScenes(archive, forgotten)
        for number, row in enumerate(tqdm(rows, desc=quarantine.asset, unit="row", disable=None), start=1):
            key = f"row {number}"
            fault = _scene_fault(row["scene"]) or text_fault(caption(row["caption"]))
            if fault is not None:
                quarantine.add(key, *fault)
                continue
            rendered, messages = scenes.get(int(row["scene"])), caption(row["caption"])
            if rendered is None or forgotten.holds(rendered[1], messages):
                quarantine.add(key, *FAULT)
                continue
            truth, image_id, image = rendered
            drafts.append(
                Draft(
                    key=key,
                    image_id=image_id,
                    image=image,
                    messages=messages,
                    task="caption",
                    source=row["source"] or "unknown",
                    split=split_of(None, image_id, seed, pairs.preference_share),
                    scene_class=truth.scene_class,
                    true_quality=mark_caption(truth, row["caption"]).mean,
                    scene=truth.seed,
                    reference_text=CAPTIONERS["expert"](truth, np.random.default_rng((seed, truth.seed, 2))),
                )
            )
    return drafts


def _scene_fault(scene: str) -> tuple[str, str] | None:
    if not scene.isascii() or not scene.isdigit():
        return "bad_row", f"scene must be a whole number, found {scene!r}"
    if int(scene) not in CORPUS_SEEDS:
        wanted = f"{CORPUS_SEEDS.start}..{CORPUS_SEEDS.stop - 1}"
        return "bad_row", f"scene {scene} is outside {wanted}, the scenes that captions may be about"
    return None


def instruction_drafts(
    pairs: SourcePairs, seed: int, out: Path, quarantine: Quarantine, forgotten: Forgotten = NOTHING
) -> list[Draft]:
    """Makes ``pairs.instruction_samples`` answered questions about new scenes and writes images.tar into ``out``.
    Those that are ``forgotten`` are quarantined."""
    count = pairs.instruction_samples
    seeds = INSTRUCTION_SEEDS[: -(-count // QUESTIONS_PER_SCENE)]
    rows = instruction_samples(seeds, seed, QUESTIONS_PER_SCENE)[:count]
    drafts = []
    with TarImages(out / "images.tar") as archive:
        scenes = _RenderedScenes(archive, forgotten)
        for number, row in enumerate(tqdm(rows, desc=quarantine.asset, unit="row", disable=None), start=1):
            rendered = scenes.get(row.scene)
            messages: list[Message] = [
                {"role": "user", "content": row.question.question},
                {"role": "assistant", "content": row.answer},
            ]
            if rendered is None or forgotten.holds(rendered[1], messages):
                quarantine.add(f"question {number}", *FAULT)
                continue
            truth, image_id, image = rendered
            drafts.append(
                Draft(
                    key=f"question {number}",
                    image_id=image_id,
                    image=image,
                    messages=messages,
                    task=row.task,
                    source=row.source,
                    split=split_of(None, image_id, seed, pairs.preference_share),
                    scene_class=truth.scene_class,
                    true_quality=mark_answer(truth, row.question.question, row.answer).mean,
                    scene=truth.seed,
                    reference_text=row.question.answer,
                )
            )
    return drafts


def benchmark_items(
    count: int, seed: int, out: Path, quarantine: Quarantine, forgotten: Forgotten = NOTHING
) -> list[dict[str, Any]]:
    """Makes ``count`` items per task on scenes that nothing else uses, and writes images.tar into ``out``. The next
    scene replaces one that is ``forgotten``, which is quarantined."""
    tasks = ("classification", "retrieval", *BENCHMARK_TASKS, *REWARD_TASKS)
    items: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    with TarImages(out / "images.tar") as archive:
        scenes = _RenderedScenes(archive, forgotten)
        for scene in BENCHMARK_SEEDS:
            if all(len(found) >= count for found in items.values()):
                break
            rendered = scenes.get(scene)
            if rendered is None:
                quarantine.add(f"scene {scene}", *FAULT)
                continue
            for item in _items_of_scene(scene, seed, *rendered):
                if len(items[item["task"]]) < count:
                    items[item["task"]].append(item)
    return [item for task in tasks for item in items[task]]


def _items_of_scene(scene: int, seed: int, truth: SceneTruth, image_id: str, image: str) -> Sequence[dict[str, Any]]:
    rng = np.random.default_rng((seed, scene, 5))
    base = {"image_id": image_id, "image": image, "scene_class": truth.scene_class}
    name = SCENES[truth.scene_class].name  # as in texts: a VLM answers with these words, CLIP reads them
    expert = CAPTIONERS["expert"](truth, rng)
    return [
        {**base, "item_id": f"classification-{scene}", "task": "classification", "answer": name},
        {**base, "item_id": f"retrieval-{scene}", "task": "retrieval", "captions": [expert]},
        *(_item(question, scene, base) for question in benchmark_questions(truth, rng)),
        *({**base, **item} for item in scene_reward_items(truth, seed)),
    ]


def _item(question: Question, scene: int, base: dict[str, Any]) -> dict[str, Any]:
    """Returns the question as an item. Multiple-choice questions keep only the stem; the choices have their own
    column."""
    return {
        **base,
        "item_id": f"{question.task}-{scene}",
        "task": question.task,
        "question": question.question.split("\n")[0],
        "answer": question.answer,
        "choices": list(question.choices) if question.choices else None,
        "boxes": [list(box) for box in question.boxes] if question.boxes else None,
    }
