"""A small scene corpus made by the source stages, and a base VLM with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.profile import Profile, load_profile
from rsqa_pipeline.scenes.corpus import write_demo_corpus
from rsqa_pipeline.source_pairs import image_text_pairs, instruction_samples
from rsqa_pipeline.tiny_models.architecture import new_vlm, train_vlm_processor
from rsqa_pipeline.tracking.run_logger import SilentLogger

SCENES = 60


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Profile:
    """The demo profile on 60 scenes, with every captioner and a noisy judge."""
    corpus = tmp_path_factory.mktemp("corpus") / "captions.csv"
    write_demo_corpus(corpus, range(SCENES), seed=7)
    demo = load_profile(str(project_root / "configs/profiles/demo.yaml"))
    sources = demo.source_pairs.model_copy(
        update={
            "captions": demo.source_pairs.captions.model_copy(update={"path": str(corpus)}),
            "preference_share": 0.5,
            "instruction_samples": 120,
        }
    )
    sampling = demo.preference_data.sampling.model_copy(update={"max_new_tokens": 6})
    preferences = demo.preference_data.model_copy(
        update={
            "judge_noise": 0.8,
            "one_fault_pairs": None,
            "captioners": ["expert", "plain", "hasty", "vague", "garbler", "vlm"],
            "sampling": sampling,
            "text_pairs": 40,
        }
    )
    return demo.model_copy(update={"source_pairs": sources, "preference_data": preferences})


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, settings: Profile) -> dict[str, Path]:
    """Outputs of image_text_pairs, instruction_samples and base_models."""
    root = tmp_path_factory.mktemp("inputs")
    folders = {name: root / name for name in ("image_text_pairs", "instruction_samples", "base_models")}
    for folder in folders.values():
        folder.mkdir()
    image_text_pairs.run({}, folders["image_text_pairs"], settings, SilentLogger())
    instruction_samples.run({}, folders["instruction_samples"], settings, SilentLogger())
    processor = train_vlm_processor(["there are two white tanks in this image."] * 4, image_size=64)
    new_vlm(processor, seed=0).save_pretrained(folders["base_models"] / "vlm")
    processor.save_pretrained(folders["base_models"] / "vlm")
    entry = {"path": "vlm", "version": weights_version(folders["base_models"] / "vlm")}
    (folders["base_models"] / "vlm.json").write_text(json.dumps(entry))
    return folders
