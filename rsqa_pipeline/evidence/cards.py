"""Model cards and data cards as the Hugging Face hub reads them, written and checked without a network."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from rsqa_pipeline.errors import DataError
from rsqa_pipeline.evidence.datasets import COLUMNS, TABLE
from rsqa_pipeline.evidence.figures import Figure
from rsqa_pipeline.evidence.file_names import CARD, DATA_MANIFEST
from rsqa_pipeline.evidence.project import Model, Project, file_hashes

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_TASKS = {"clip": "zero-shot-image-classification", "vlm": "image-text-to-text", "scorer": "image-text-to-text"}


def render(template: str, **values: Any) -> str:
    """A template of this package with its values; an unknown name is an error."""
    source = (files("rsqa_pipeline.evidence") / "templates" / template).read_text(encoding="utf-8")
    made = Environment(undefined=StrictUndefined, autoescape=False).from_string(source).render(**values)
    return re.sub(r"\n{3,}", "\n\n", made).rstrip() + "\n"


def write_model_card(
    project: Project,
    model: Model,
    facts: dict[str, Any],
    figures: list[Figure],
    rule: str | None,
    signature: str,
    history: str,
    out: Path,
) -> None:
    """Writes CARD and DATA_MANIFEST of a model into ``out``.

    Args:
        facts: of `facts.model_facts`.
        rule: of the training data; None for a model that was not trained on a subset.
        signature: file of its signature, or that it has none.
        history: what shows how everything was made, with its verb.

    Raises:
        DataError: the card does not read back as it was written.
    """
    manifest = data_manifest(project, model)
    (out / DATA_MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    base = facts["base"].get("name")
    task = _TASKS[facts["kind"]]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=figure.measured_by,
            dataset_name=f"{project.profile.name}: {figure.measured_by}, {figure.task}",
            dataset_config=figure.task,
            metric_type=figure.metric,
            metric_value=figure.value,
            metric_args={"low": figure.low, "high": figure.high, "items": figure.n},
        )
        for figure in figures
    ]
    data = ModelCardData(
        model_name=f"{project.profile.name}/{model.name}",
        eval_results=results or None,
        library_name="transformers",
        pipeline_tag=task,
        tags=["remote-sensing", f"profile-{project.profile.name}"],
        base_model=base if base and _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
    )
    text = render(
        "model_card.jinja",
        card_data=data.to_yaml(),
        name=model.name,
        profile=project.profile,
        facts=facts,
        weights=manifest["weights_version"],
        rule=rule,
        settings=json.dumps(facts["settings"], indent=1, sort_keys=True),
        figures=figures,
        signature=signature,
        history=history,
    )
    _write(ModelCard(text), ModelCard, data, out)


def data_manifest(project: Project, model: Model) -> dict[str, Any]:
    """Files of a model with their sha256, and everything that its asset was made from, by version."""
    from rsqa_pipeline.models.load import weights_version  # torch

    record = project.standing[model.asset]
    return {
        "profile": project.profile.name,
        "asset": model.asset,
        "model": model.name,
        "data_version": record["data_version"],
        "weights_version": weights_version(model.folder),
        "files": file_hashes(model.folder),
        "made_from": [
            {"kind": kind, "name": name, "version": version} for kind, name, version in project.behind(model.asset)
        ],
    }


def write_data_card(project: Project, subset: str, facts: dict[str, Any], out: Path) -> None:
    """Writes CARD of a subset into ``out``.

    Raises:
        DataError: the card does not read back as it was written.
    """
    data = DatasetCardData(
        pretty_name=f"{project.profile.name}/{subset}",
        task_categories=["image-text-to-text"],
        tags=["remote-sensing", f"profile-{project.profile.name}"],
        configs=[{"config_name": "default", "data_files": TABLE}],
    )
    columns = {name: text for name, (_, text) in COLUMNS.items()}
    text = render("data_card.jinja", card_data=data.to_yaml(), name=subset, facts=facts, columns=columns)
    _write(DatasetCard(text), DatasetCard, data, out)


def _write(card: Any, kind: type[Any], data: Any, out: Path) -> None:
    """Writes a card and reads it back; `validate` of the library would ask the hub."""
    (out / CARD).write_text(card.content, encoding="utf-8")
    read = kind.load(out / CARD)
    if read.data.to_dict() != data.to_dict() or not read.text.strip():
        raise DataError(f"{out / CARD}: its metadata do not read back as they were written")
