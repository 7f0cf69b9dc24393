"""The wheel holds everything it needs: installed in a fresh environment, it scores texts outside the checkout."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsqa_pipeline
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.tracking.mlflow_logger import MlflowTracking
from tests.curated_subsets.random_model import save_random_model

SOURCES = ["assets", "rsqa_pipeline", "pyproject.toml", "README.md", "LICENSE"]
CODE = """
import importlib.util, json, sys
import rsqa_pipeline
model, image, *texts = sys.argv[1:]
scorer = rsqa_pipeline.load_scorer(model, device="cpu")
scores = rsqa_pipeline.score(scorer, image, texts)
files = [rsqa_pipeline.__file__, importlib.util.find_spec("assets").origin]
print(json.dumps({"files": files, "version": rsqa_pipeline.__version__, "scores": scores}))
"""

LOAD = """
import json, sys
import mlflow, pandas as pd
uri, *columns = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/score_model@challenger")
given = model.predict(pd.DataFrame({"image": columns[0::2], "text": columns[1::2]}))
print(json.dumps({"file": sys.modules["rsqa_pipeline"].__file__, "scores": given.tolist()}))
"""


def run(*words: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    reply = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    return reply.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout gets no build folder and a stale one adds no file."""
    root, source = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, source)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "-w", out]
    run(*build, cwd=source)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment with the wheel; dependencies come from the current environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", wheel, "--no-deps", "--no-index", "--quiet"]
    run(*install, cwd=folder)
    # Folders of a .pth file come after the environment's own site-packages, and their .pth files, such as that of an
    # editable install of this project, are not read.
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return python


def test_the_installed_wheel_scores_texts_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    save_random_model(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    texts = ["two white tanks", "a harbour with many ships", "green fields"]
    found = json.loads(run(python, "-c", CODE, tmp_path / "model", tmp_path / "image.png", *texts, cwd=tmp_path))
    assert all(Path(file).is_relative_to(python.parent.parent) for file in found["files"]), found["files"]
    assert found["version"]
    assert len(found["scores"]) == 3 and all(math.isfinite(value) for value in found["scores"])


def test_a_registered_model_loads_with_mlflow_where_the_wheel_alone_is_installed(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_random_model(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    tracking = MlflowTracking(Profile.model_construct(name="unit"))
    with tracking.asset_run("score_model", "run-1", {}) as logger:
        logger.log_model("score_model", tmp_path / "model")
    rows = ["image.png", "two white tanks", "missing.png", "a road"]
    found = json.loads(run(python, "-c", LOAD, tracking.uri, *rows, cwd=tmp_path))
    assert Path(found["file"]).is_relative_to(python.parent.parent)
    scorer = rsqa_pipeline.load_scorer(tmp_path / "model", device="cpu")
    assert found["scores"][0] == pytest.approx(rsqa_pipeline.score(scorer, *rows[:1], rows[1:2])[0], abs=1e-5)
    assert math.isnan(found["scores"][1])


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path, project_root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    tracked = {
        file.relative_to(project_root).as_posix()
        for package in ("rsqa_pipeline", "assets")
        for file in (project_root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert not tracked - held
    for name in (
        "rsqa_pipeline/py.typed",
        "rsqa_pipeline/benchmarks/tasks/count.yaml",
        "rsqa_pipeline/report/templates/index.jinja",
        "rsqa_pipeline/preference_data/rs_questions.yaml",
        "rsqa_pipeline/tiny_models/checkpoints/vlm/model.safetensors",
        "rsqa_pipeline/tiny_models/checkpoints/vlm_expert/model.safetensors",
        "rsqa_pipeline/tiny_models/checkpoints/vlm/chat_template.jinja",
        "rsqa_pipeline/tiny_models/checkpoints/clip/config.json",
        "assets/definitions.py",
    ):
        assert name in held
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
    assert not [name for name in held if name.startswith(("tests/", "perf/"))]
