"""Untrained tiny models of the real classes, and a small table of test items with generated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsqa_pipeline.images.decode import TarImages
from rsqa_pipeline.models.load import load_processor, weights_version
from rsqa_pipeline.profile import BestOfN, Compute, Profile, load_profile
from rsqa_pipeline.profile.curated_subsets import CurationCurve
from rsqa_pipeline.profile.profile import Benchmarks
from rsqa_pipeline.profile.types import Sampling
from rsqa_pipeline.records import BENCHMARK_ITEM, write_table
from rsqa_pipeline.score_model.network.model import ScoreModel
from rsqa_pipeline.tiny_models.architecture import (
    new_clip,
    new_clip_image_processor,
    new_vlm,
    train_clip_tokenizer,
    train_vlm_processor,
)

TEXTS = ["How many ships are there?", "3", "yes", "no", "[10, 12, 30, 40]", "a river", "a beach", "a harbour"] * 3
CLASSES = ("river", "beach", "harbour")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``base_models`` folder: vlm/, clip/ and the JSON files that point to them."""
    folder = tmp_path_factory.mktemp("base_models")
    processor = train_vlm_processor(TEXTS, 32)
    new_vlm(processor, seed=0).save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    tokenizer = train_clip_tokenizer(TEXTS)
    new_clip(tokenizer, 32, seed=0).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    new_clip_image_processor(32).save_pretrained(folder / "clip")
    for kind in ("vlm", "clip"):
        entry = {"path": kind, "version": weights_version(folder / kind)}
        (folder / f"{kind}.json").write_text(json.dumps(entry), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def item_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Six items per task."""
    folder, rng, rows = tmp_path_factory.mktemp("items"), np.random.default_rng(0), []
    fields_of_task = {
        "classification": lambda n: {"answer": CLASSES[n % 3]},
        "retrieval": lambda n: {"captions": [f"a {CLASSES[n % 3]}", f"caption {n}"]},
        "count": lambda n: {"question": f"How many {'very ' * (n % 3)}long ships are there?", "answer": str(n % 3)},
        "presence": lambda n: {"question": f"Is there a ship near pier {n}?", "answer": "yes" if n % 2 else "no"},
        "choice": lambda n: {"question": f"What is at {n}?", "answer": "AB"[n % 2], "choices": ["river", "beach"]},
        "grounding": lambda n: {"question": f"Where is ship {n}?", "boxes": [[0.0, 0.0, 8.0 + n, 8.0]]},
    }
    with TarImages(folder / "images.tar") as archive:
        for task, fields in fields_of_task.items():
            for n in range(6):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                image_id, image = archive.add(f"{task}-{n}.png", pixels)
                rows.append({"item_id": f"{task}-{n}", "task": task, "image_id": image_id, "image": image} | fields(n))
    return rows


@pytest.fixture
def benchmark_sets(item_rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    folder = tmp_path / "benchmark_sets"
    write_table(folder / "items.parquet", BENCHMARK_ITEM, item_rows)
    return folder


@pytest.fixture
def score_model(models: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "score_model"
    torch.manual_seed(0)
    ScoreModel.from_base(str(models / "vlm")).save_pretrained(folder / "model")
    load_processor(models / "vlm").save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def settings(project_root: Path) -> Profile:
    """Few answers and few resamples, and only the sections that a benchmark sees."""
    sampling = Sampling(temperature=0.95, top_p=1.0, max_new_tokens=6)
    best_of_n = BestOfN(items=4, counts=[1, 2, 4], sampling=sampling)
    curve = CurationCurve(fractions=[0.5, 1.0], rankings=["random"], seeds=2)
    marks = Benchmarks(batch_size=4, max_new_tokens=6, bootstrap_resamples=50, best_of_n=best_of_n, curve=curve)
    demo = load_profile(str(project_root / "configs/profiles/demo.yaml"))
    return Profile.model_construct(
        name="test",
        seed=3,
        compute=Compute(device="cpu"),
        benchmarks=marks,
        curated_subsets=demo.curated_subsets,
        finetuned_models=demo.finetuned_models,
    )
