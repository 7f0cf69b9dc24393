"""`mlflow.pyfunc.load_model` of registered models in processes of their own, against scores in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rsqa_pipeline
from rsqa_pipeline.errors import DataError, ModelError
from rsqa_pipeline.models.clip_score import ClipScorer
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.models.scoring_group import ScoringGroup
from rsqa_pipeline.profile import Compute, Profile
from rsqa_pipeline.tiny_models.pretrain import CHECKPOINTS
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking, registered_version
from tests.curated_subsets.random_model import save_random_model

LOAD = """
import json, sys
import mlflow, pandas as pd
uri, *references = sys.argv[1:]
mlflow.set_tracking_uri(uri)
table = pd.DataFrame(json.load(sys.stdin))
given = {ref: mlflow.pyfunc.load_model(ref).predict(table) for ref in references}
print(json.dumps({ref: [None if pd.isna(value) else value for value in column] for ref, column in given.items()}))
"""
DATABASE = "sqlite:///.rsqa/unit/mlflow.db"
"""As a user writes it: relative to the checkout."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two images and a registry of three models; version 1 of the score model is the champion."""
    root = tmp_path_factory.mktemp("checkout") / "project"
    root.mkdir()
    save_random_model(root / "score_model")
    for number, name in enumerate(("one.png", "two.png")):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tracking = MlflowTracking(Profile.model_construct(name="unit"))
        for name, folder in (
            ("score_model", root / "score_model"),
            ("clip_all", CHECKPOINTS / "clip"),
            ("vlm_all", CHECKPOINTS / "vlm"),
        ):
            with tracking.asset_run(name, "run-1", {}) as logger:
                logger.log_model(name, folder)
                logger.record_output("0" * 32 + ".dir", {})
        tracking.record_decision("score_model", "1", {}, promoted=True)
    return root


TABLE = {
    "image": ["one.png", "two.png", "one.png", "missing.png", None, "one.png", "one.png"],
    "text": ["two white tanks", "a harbour with ships", "green fields", "a road", "a road", "  ", None],
}
REASONS = {3: "missing_image", 4: "no_image", 5: "no_text", 6: "no_text"}


def load(root: Path, *references: str) -> tuple[dict[str, list[float | str | None]], str]:
    """What a process in ``root`` that imports nothing but mlflow predicts for TABLE, and what it logs."""
    source = str(Path(rsqa_pipeline.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, DATABASE, *references],
        cwd=root,
        env={**os.environ, "PYTHONPATH": source},
        input=json.dumps(TABLE),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def expected_scores(root: Path) -> list[float | None]:
    scorer = rsqa_pipeline.load_scorer(root / "score_model", device="cpu")
    rows = enumerate(zip(TABLE["image"], TABLE["text"], strict=True))
    return [
        None if n in REASONS else rsqa_pipeline.score(scorer, root / str(image), [str(text)])[0]
        for n, (image, text) in rows
    ]


def test_alias_and_number_score_as_in_this_process(checkout: Path) -> None:
    references = ("models:/score_model@champion", "models:/score_model@challenger", "models:/score_model/1")
    given, logged = load(checkout, *references)
    expected = expected_scores(checkout)
    for reference in references:
        assert [value is None for value in given[reference]] == [value is None for value in expected]
        assert [v for v in given[reference] if v is not None] == pytest.approx(
            [v for v in expected if v is not None], abs=1e-5
        )
    for row, reason in REASONS.items():
        assert logged.count(f"row {row} has no score: {reason}: ") == len(references)


def test_clip_gives_similarities_and_the_vlm_answers(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, logged = load(checkout, "models:/clip_all@challenger", "models:/vlm_all@challenger")
    monkeypatch.chdir(checkout)
    clip = ClipScorer.load(CHECKPOINTS / "clip", Compute(device="cpu"), 4)
    usable = [n for n in range(len(TABLE["image"])) if n not in REASONS]
    groups = [ScoringGroup(TABLE["image"][n], [], [str(TABLE["text"][n])]) for n in usable]
    expected = dict(zip(usable, clip.score(groups), strict=True))
    for n, value in enumerate(given["models:/clip_all@challenger"]):
        assert value == (pytest.approx(expected[n][0], abs=1e-5) if n in expected else None)
    answers = given["models:/vlm_all@challenger"]
    assert [n for n, answer in enumerate(answers) if isinstance(answer, str)] == usable
    assert logged.count("row 3 has no answer: missing_image") == logged.count("row 3 has no similarity") == 1


def test_a_copy_loads_its_own_models_once_a_command_opened_its_registry(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "second checkout"
    shutil.copytree(checkout, copy)
    monkeypatch.chdir(copy)
    tracking = MlflowTracking(Profile.model_construct(name="unit"))
    assert tracking.download("score_model", "1").is_relative_to(copy)
    expected = expected_scores(copy)
    original = checkout.with_name("gone")
    checkout.rename(original)
    try:
        given, _ = load(copy, "models:/score_model@champion")
    finally:
        original.rename(checkout)
    assert given["models:/score_model@champion"] == [
        None if v is None else pytest.approx(v, abs=1e-5) for v in expected
    ]


@pytest.fixture
def tracking(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracking:
    """Of a copy that a test may change."""
    shutil.copytree(checkout, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return MlflowTracking(Profile.model_construct(name="unit"))


def test_mlmodel_states_columns_and_an_example_and_the_folder_is_still_the_models(
    tracking: MlflowTracking, checkout: Path
) -> None:
    folder = tracking.download("score_model", "1")
    found = mlflow.models.Model.load(folder)
    assert found.signature.inputs.input_names() == ["image", "text"]
    assert [str(kind) for kind in found.signature.inputs.input_types()] == ["DataType.string"] * 2
    assert found.signature.outputs.input_names() == ["score"]
    assert list(found.load_input_example(str(folder)).columns) == ["image", "text"]
    assert not any("project" in line for line in (folder / "MLmodel").read_text().splitlines()), (
        "a path of this machine"
    )
    assert weights_version(folder) == weights_version(checkout / "score_model")
    loaded = mlflow.pyfunc.load_model(str(folder))
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"missing inputs \['text'\]"):
        loaded.predict(pd.DataFrame({"image": ["one.png"]}))
    assert loaded.predict(pd.DataFrame(TABLE)[:0]).tolist() == []
    shuffled = pd.DataFrame(TABLE).iloc[[2, 0, 1]].set_index(pd.Index(["c", "a", "b"]))
    assert list(loaded.predict(shuffled).index) == ["c", "a", "b"]


def test_changed_weights_are_refused(tracking: MlflowTracking) -> None:
    folder = tracking.download("score_model", "1")
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"the weights are .* registered were .*train again"):
        mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("models:/nothing@challenger", "it holds clip_all, score_model, vlm_all; `rsqa run nothing`"),
        ("models:/score_model/7", "versions of score_model: 1, aliases: challenger, champion; name one of them"),
        ("models:/vlm_all@champion", "versions of vlm_all: 1, aliases: challenger; name one of them"),
        ("models:/score_model@champion", "no version was promoted here; `rsqa promote` judges the challenger"),
    ],
)
def test_a_missing_name_or_alias_is_one_line_with_the_next_step(
    tracking: MlflowTracking, reference: str, words: str
) -> None:
    if words.startswith("no version"):
        tracking.client.delete_registered_model_alias("score_model", "champion")
    with pytest.raises(DataError) as caught:
        registered_version(tracking, reference)
    assert f"the registry has no {reference}" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_version_of_an_earlier_package_gets_its_mlmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracking = MlflowTracking(Profile.model_construct(name="unit"))
    with tracking.asset_run("clip_all", "run-1", {}) as logger:
        logger.log_model("clip_all", CHECKPOINTS / "clip")
        logger.record_output("0" * 32 + ".dir", {})
    (version,) = tracking.versions()
    folder = tracking.download("clip_all", "1")
    for name in ("MLmodel", "input_example.json"):
        (folder / name).unlink()
    tracking.add_pyfunc_files(version)
    assert mlflow.pyfunc.load_model(str(folder)).metadata.run_id == version.run_id
