"""A second clone: its registry is made from pulled data, by every command that needs a model and as the docs say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import rsqa_pipeline
from rsqa_pipeline.lineage.manifest import Manifest, ManifestStore, Recipe
from rsqa_pipeline.materialization.materialize import weights_of
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.versions import folder_version
from tests.curated_subsets.random_model import save_random_model
from tests.pipeline.project import ROOT, Project, checkout
from tests.state.conftest import rsqa

VERSION_OF_BASE = "0" * 32 + ".dir"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with a recorded score model and the bundle of its manifests, both in a DVC remote."""
    project = checkout(tmp_path_factory.mktemp("pushed").resolve() / "project", captions=40)
    assets = assets_of(project.profile)
    made = {name: project.root / assets[name].folder(project.profile) for name in ("score_model", "lineage_manifest")}
    save_random_model(made["score_model"] / "model")
    recipe = Recipe("c0de", {"seed": 7}, {"caption_score_model": VERSION_OF_BASE}, {})
    version, weights = folder_version(made["score_model"]), weights_of(made["score_model"])
    manifest = Manifest("score_model", version, recipe, {"accuracy": 0.75}, [], weights=weights)
    ManifestStore(made["lineage_manifest"] / "manifests").append(manifest)
    outs = {name: {"cmd": "true", "outs": [str(path.relative_to(project.root))]} for name, path in made.items()}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": outs}))
    project.call("dvc", "commit", "-q", "-f")
    project.call("dvc", "remote", "add", "-d", "local", str(project.root.parent / "remote"))
    project.commit("score model")
    project.call("dvc", "push", "-q")
    return project


@pytest.fixture
def clone(pushed: Project, tmp_path: Path) -> Project:
    """A second clone after `dvc pull`; the first one's state is out of reach."""
    clone = Project(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", str(pushed.root), str(clone.root)], check=True)
    clone.call("dvc", "pull", "-q")
    assert not (clone.root / ".rsqa").exists()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(clone.root / "airport_1.jpg")
    return clone


def snippet() -> str:
    text = (ROOT / "docs/lineage.md").read_text(encoding="utf-8").partition("## Registry")[2]
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace(".rsqa/demo", ".rsqa/smoke")
    return code + "import json\nprint(json.dumps(scores.tolist()))\n"


def test_the_docs_example_scores_in_a_second_clone(clone: Project) -> None:
    listed = rsqa(clone, "models")
    version = folder_version(clone.data / "score_model/score_model")
    assert re.search(rf"score_model +1 +challenger +{re.escape(version)}", listed), listed
    assert f"registry: sqlite:///{clone.root.resolve()}/.rsqa/smoke/mlflow.db" in listed
    (score,) = json.loads(clone.call(sys.executable, "-c", snippet()).stdout.splitlines()[-1])
    scorer = rsqa_pipeline.load_scorer(clone.data / "score_model/score_model/model", device="cpu")
    expected = rsqa_pipeline.score(scorer, clone.root / "airport_1.jpg", ["many planes at an airport"])
    assert score == pytest.approx(expected[0], abs=1e-5)
    assert rsqa(clone, "models") == listed, "a second call registers nothing"


def test_the_registered_folder_holds_its_card(clone: Project) -> None:
    rsqa(clone, "models")
    (path,) = (clone.root / ".rsqa/smoke/mlruns").rglob("README.md")
    card = ModelCard.load(path)
    assert card.data.to_dict()["library_name"] == "transformers" and "profile-smoke" in card.data.tags
    for words in ("## Intended use", "## Limits", VERSION_OF_BASE, "accuracy | 0.75", "`rsqa trace` shows"):
        assert words in card.text
    manifest = json.loads((path.parent / "data_manifest.json").read_text())
    assert manifest["data_version"] == folder_version(clone.data / "score_model/score_model")
    assert {"MLmodel", "config.json", "input_example.json"} <= {file.name for file in path.parent.iterdir()}


def test_trace_registers_the_model_that_it_is_asked_for(clone: Project) -> None:
    traced = json.loads(
        clone.call("rsqa", "trace", "models:/score_model@challenger", "--json", check=False).stdout,
    )
    assert traced["model"]["version"] == "1" and traced["trace"]["name"] == "score_model"
    forged = next((clone.root / ".rsqa/smoke/mlruns").rglob("model.safetensors"))
    forged.write_bytes(forged.read_bytes()[:-1] + b"\0")
    assert "registered were" in rsqa(clone, "trace", "models:/score_model@challenger", code=1)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("models:/score_model@champion", "no version was promoted here; `rsqa promote` judges the challenger"),
        ("models:/score_model@best", "versions of score_model: 1, aliases: challenger; name one of them"),
        ("models:/vlm_all@challenger", "it holds no model; `rsqa run vlm_all` makes and registers a model"),
    ],
)
def test_a_missing_alias_or_name_is_one_line(clone: Project, reference: str, words: str) -> None:
    printed = rsqa(clone, "trace", reference, code=1)
    assert f"the registry has no {reference}" in printed and words in printed
    assert len(printed.strip().splitlines()) == 1, printed


def test_a_clone_without_data_is_told_what_to_do(clone: Project) -> None:
    shutil.rmtree(clone.data)
    assert "`rsqa run`, or `dvc pull`" in rsqa(clone, "models", code=2)
    assert not (clone.root / ".rsqa").exists()
