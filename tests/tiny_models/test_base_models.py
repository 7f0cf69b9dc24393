from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.models.load import base_model, load_clip, load_vlm, weights_version
from rsqa_pipeline.profile import Compute, Profile, ScratchRecipe, ScratchSteps, TinyModels, load_profile
from rsqa_pipeline.records import IMAGE_TEXT_SAMPLE, Message, sample_id, write_table
from rsqa_pipeline.scenes.render import render
from rsqa_pipeline.scenes.truth import CORPUS_SEEDS, sample_scene
from rsqa_pipeline.tiny_models import base_models
from rsqa_pipeline.tiny_models.own_images import OwnImages
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from rsqa_pipeline.tracking.run_logger import SilentLogger

SPLITS = ["preference", "corpus", "corpus", "validation", "test"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``image_text_pairs`` output of 40 images; every second caption is corrupted."""
    folder = tmp_path_factory.mktemp("image_text_pairs")
    rows = []
    for number, seed in enumerate(CORPUS_SEEDS[:40]):
        truth = sample_scene(seed)
        file = folder / f"{seed}.png"
        Image.fromarray(render(truth)).resize((150, 100)).save(file)
        for source in ("rsicd", "vague"):
            text = f"a {truth.scene_class} by {source}"
            messages = [Message(role="assistant", content=text)]
            rows.append(
                {"sample_id": sample_id(str(seed), messages), "image_id": str(seed), "image": str(file),
                 "messages": messages, "task": "caption", "source": source, "split": SPLITS[number % 5],
                 "scene_class": truth.scene_class}
            )  # fmt: skip
    write_table(folder / "samples.parquet", IMAGE_TEXT_SAMPLE, rows)
    return folder


def _settings(tiny: TinyModels) -> Profile:
    demo = load_profile("demo")
    return demo.model_copy(update={"tiny_models": tiny, "compute": Compute(device="cpu")})


def test_local_models_are_copied_with_their_versions(pairs: Path, tmp_path: Path) -> None:
    sources = {"vlm": CHECKPOINTS / "vlm", "clip": CHECKPOINTS / "clip", "scorer": CHECKPOINTS / "vlm_expert"}
    tiny = TinyModels(**{kind: str(folder) for kind, folder in sources.items()})
    metrics = base_models.run({"image_text_pairs": pairs}, tmp_path, _settings(tiny), SilentLogger())
    for kind, folder in sources.items():
        entry = json.loads((tmp_path / f"{kind}.json").read_text())
        assert entry == {"path": kind, "version": weights_version(folder)}
        assert 1 < metrics[f"{kind}_million_parameters"] < 4
    assert base_model(tmp_path, "vlm") == str(tmp_path / "vlm")
    assert base_model(tmp_path, "scorer") == str(tmp_path / "scorer")


def test_without_a_scorer_the_score_model_starts_from_the_vlm(pairs: Path, tmp_path: Path) -> None:
    tiny = TinyModels(vlm=str(CHECKPOINTS / "vlm"), clip=str(CHECKPOINTS / "clip"))
    base_models.run({"image_text_pairs": pairs}, tmp_path, _settings(tiny), SilentLogger())
    assert not (tmp_path / "scorer.json").exists() and not (tmp_path / "scorer").exists()


def test_models_from_scratch_on_own_images(pairs: Path, tmp_path: Path) -> None:
    steps = {"perception_steps": 3, "vlm_steps": 3, "clip_steps": 3}
    recipe = ScratchRecipe(**steps, image_size=64, batch_size=4, smoke=ScratchSteps(**steps))
    settings = _settings(TinyModels(vlm="scratch", clip="scratch", scratch=recipe))
    outputs = []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        metrics = base_models.run({"image_text_pairs": pairs}, out, settings, SilentLogger())
        names = {"perception_scene_class", "million_parameters"}
        assert {f"{kind}_{n}" for kind in ("vlm", "clip") for n in names} <= set(metrics)
        assert all(0 <= metrics[n] <= 1 for n in ("vlm_class_answer", "clip_zero_shot_class"))
        outputs.append((metrics, (out / "vlm.json").read_text(), (out / "clip.json").read_text()))
    assert outputs[0] == outputs[1]
    cpu = Compute(device="cpu")
    assert load_vlm(base_model(out, "vlm"), cpu).model.config.vision_config.patch_size == 8
    assert load_clip(base_model(out, "clip"), cpu).model.config.vision_config.image_size == 64


def test_models_from_scratch_learn_a_teachers_features(pairs: Path, encoder: Path, tmp_path: Path) -> None:
    steps = {"vlm_steps": 1, "clip_steps": 1}
    cosines = []
    for perception_steps in (1, 60):
        steps["perception_steps"] = perception_steps
        recipe = ScratchRecipe(**steps, teacher=str(encoder), image_size=32, batch_size=8, smoke=ScratchSteps(**steps))
        settings = _settings(TinyModels(vlm="scratch", clip="scratch", scratch=recipe))
        out = tmp_path / str(perception_steps)
        out.mkdir()
        with contextlib.chdir(tmp_path):  # the features are kept in the profile's state
            metrics = base_models.run({"image_text_pairs": pairs}, out, settings, SilentLogger())
        cosines.append([metrics[f"{kind}_perception_teacher"] for kind in ("vlm", "clip")])
        load_vlm(base_model(out, "vlm"), Compute(device="cpu"))
        load_clip(base_model(out, "clip"), Compute(device="cpu"))
    assert all(after > before + 0.05 for before, after in zip(*cosines, strict=True))
    assert len(list((tmp_path / ".rsqa/demo/scores/base_models").rglob("*.f32"))) == 32


def test_own_images_use_only_clean_captions_of_the_preference_split(pairs: Path) -> None:
    material = OwnImages(pairs, 32)
    assert material.images.shape == (32, 32, 32, 3)
    rng = np.random.default_rng(0)
    captions = [text for _ in range(20) for text in material.caption_batch(rng, 8)[1]]
    assert captions and all(text.endswith("by rsicd") for text in captions)
    assert len(set(captions)) <= 8
    assert not set(material.rows_of("validation")) & set(material.rows_of("preference", "corpus"))


def test_scratch_needs_clean_captions(pairs: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "samples.parquet", IMAGE_TEXT_SAMPLE, [])
    with pytest.raises(DataError, match="found 0 captioned images"):
        OwnImages(tmp_path, 32)


def test_missing_checkpoint_is_a_model_error(pairs: Path, tmp_path: Path) -> None:
    tiny = TinyModels(vlm="no/such/model", clip=str(CHECKPOINTS / "clip"))
    with pytest.raises(ModelError, match="no model folder no/such/model"):
        base_models.run({"image_text_pairs": pairs}, tmp_path, _settings(tiny), SilentLogger())
