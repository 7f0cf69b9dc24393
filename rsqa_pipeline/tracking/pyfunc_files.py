"""The files that make a model folder loadable with `mlflow.pyfunc.load_model`: ``MLmodel`` and an input example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema

from rsqa_pipeline.models.families import FAMILIES
from rsqa_pipeline.models.load import CLIP_FAMILIES, SIGLIP_FAMILIES
from rsqa_pipeline.models.model_folder import read_config

MODEL_ARTIFACT = "model"
"""Artifact of a run that is a registered version."""
MLMODEL = "MLmodel"
INPUT_EXAMPLE = "input_example.json"
LOADER = "rsqa_pipeline.registered_model"
"""Module that loads the folder; nothing is pickled."""
WEIGHTS = "weights_version"
"""Key of MLMODEL's metadata."""
IMAGE, TEXT = "image", "text"
"""Columns of a table that a registered model takes."""

ModelKind = Literal["scorer", "clip", "vlm"]
OUTPUTS: dict[ModelKind, ColSpec] = {
    "scorer": ColSpec(DataType.double, "score", required=False),
    "clip": ColSpec(DataType.double, "similarity", required=False),
    "vlm": ColSpec(DataType.string, "answer", required=False),
}
_EXAMPLES: dict[ModelKind, str] = {
    "scorer": "many planes are parked next to the terminal",
    "clip": "many planes are parked next to the terminal",
    "vlm": "How many planes are there?",
}


def model_kind(folder: Path) -> ModelKind | None:
    """What a model folder holds, by its config.json; None if it is none of the three.

    Raises:
        ModelError: config.json cannot be read.
    """
    if not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    if config.get("architectures") == ["ScoreModel"]:
        return "scorer"
    if config.get("model_type") in CLIP_FAMILIES + SIGLIP_FAMILIES:
        return "clip"
    return "vlm" if config.get("model_type") in FAMILIES else None


def write_pyfunc_files(kind: ModelKind, weights: str, run_id: str, out: Path) -> None:
    """Writes MLMODEL and INPUT_EXAMPLE into ``out``; the model's own files are to stand beside them.

    Args:
        weights: `weights_version` of the model, which the loader compares with what it finds.
        run_id: MLflow run that has the model as its MODEL_ARTIFACT.
    """
    rows = {"columns": [IMAGE, TEXT], "data": [["images/airport_1.jpg", _EXAMPLES[kind]]]}
    (out / INPUT_EXAMPLE).write_text(json.dumps(rows) + "\n", encoding="utf-8")
    columns = [ColSpec(DataType.string, name) for name in (IMAGE, TEXT)]
    described = Model(
        artifact_path=MODEL_ARTIFACT,
        run_id=run_id,
        signature=ModelSignature(inputs=Schema(columns), outputs=Schema([OUTPUTS[kind]])),
        saved_input_example_info={"artifact_path": INPUT_EXAMPLE, "type": "dataframe", "pandas_orient": "split"},
        metadata={WEIGHTS: weights},
    )
    mlflow.pyfunc.add_to_model(described, loader_module=LOADER)
    described.save(out / MLMODEL)


def recorded_weights(folder: Path) -> str:
    """The version of the weights that the folder was registered with."""
    return str(Model.load(folder / MLMODEL).metadata[WEIGHTS])
