"""A CycloneDX bill of materials: models with their cards and files, data, and libraries (ML-BOM, version 1.6)."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from rsqa_pipeline import __version__
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.evidence.facts import model_facts
from rsqa_pipeline.evidence.figures import figures_of
from rsqa_pipeline.evidence.project import Model, Project, file_hashes
from rsqa_pipeline.versions import settings_version

_FACTS = ("python", "torch", "transformers", "trl", "peft", "numpy", "pillow")
"""Libraries whose versions a record states."""


def write_bom(project: Project, out: Path) -> int:
    """Writes the bill of materials; returns the number of its components.

    `cyclonedx-python-lib` has no model cards, so `modelCard` is added to what it writes. The whole is checked by the
    library's schema validator.

    Raises:
        DataError: the schema validator finds a fault.
    """
    bom, models = Bom(), project.models
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, settings_version([project.profile.name, project.versions()]))
    if project.newest is not None:
        bom.metadata.timestamp = project.newest
    parts = {f"data:{name}": _data(project, name) for name in project.standing if name not in {m.asset for m in models}}
    for record in project.standing.values():
        for path, version in record["recipe"]["sources"].items():
            parts[f"source:{path}"] = _component(ComponentType.DATA, f"source:{path}", path, version)
    parts |= {f"model:{model.name}": _model(project, model) for model in models}
    libraries = _libraries(project)
    root = _component(ComponentType.APPLICATION, "rsqa-pipeline", "rsqa-pipeline", __version__)
    bom.metadata.component = root
    for part in (*parts.values(), *libraries):
        bom.components.add(part)
    bom.register_dependency(root, [*parts.values(), *libraries])
    assets = {model.asset for model in models}
    for key, part in parts.items():
        kind, _, name = key.partition(":")
        asset = next((model.asset for model in models if model.name == name), name)
        if kind != "source":
            recipe = project.standing[asset]["recipe"]
            behind = [f"{'model' if up in assets else 'data'}:{up}" for up in recipe["inputs"]]
            behind += [f"source:{path}" for path in recipe["sources"]]
            bom.register_dependency(part, [parts[ref] for ref in behind if ref in parts])
    text = JsonV1Dot6(bom).output_as_string()
    written = json.loads(text)
    if project.newest is None:
        del written["metadata"]["timestamp"]  # the library's own is the time of writing
    cards = {f"model:{model.name}": _card(project, model, set(parts)) for model in models}
    for part in written["components"]:
        if part["bom-ref"] in cards:
            part["modelCard"] = cards[part["bom-ref"]]
    text = json.dumps(written, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise DataError(f"{out} does not fit the CycloneDX schema: {fault}")
    out.write_text(text, encoding="utf-8")
    return len(written["components"])


def _component(kind: ComponentType, ref: str, name: str, version: str, **more: Any) -> Component:
    return Component(type=kind, bom_ref=ref, name=name, version=version, **more)


def _data(project: Project, name: str) -> Component:
    record = project.standing[name]
    md5 = record["data_version"].removesuffix(".dir")
    hashes = [HashType(alg=HashAlgorithm.MD5, content=md5)]
    facts = [
        Property(name="rsqa:hash_of", value="list of the folder's files and their md5, as DVC writes it"),
        Property(name="rsqa:code_version", value=record["recipe"]["code_version"]),
    ]
    described = project.asset(name).description
    return _component(
        ComponentType.DATA, f"data:{name}", name, record["data_version"], hashes=hashes, description=described,
        properties=facts,
    )  # fmt: skip


def _model(project: Project, model: Model) -> Component:
    record = project.standing[model.asset]
    files = [
        _component(
            ComponentType.FILE, f"file:{model.name}/{name}", name, record["data_version"],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for name, sha256 in file_hashes(model.folder).items()
    ]  # fmt: skip
    facts = [Property(name="rsqa:code_version", value=record["recipe"]["code_version"])]
    described = project.asset(model.asset).description
    return _component(
        ComponentType.MACHINE_LEARNING_MODEL, f"model:{model.name}", model.name, record["data_version"],
        description=described, components=files, properties=facts,
    )  # fmt: skip


def _libraries(project: Project) -> list[Component]:
    """Each version of a library that a standing record states, and how many records state it."""
    stated: dict[tuple[str, str], int] = {}
    for record in project.standing.values():
        for name in _FACTS:
            if name in record["run"]:
                key = (name, record["run"][name])
                stated[key] = stated.get(key, 0) + 1
    return [
        _component(
            ComponentType.PLATFORM if name == "python" else ComponentType.LIBRARY, f"library:{name}@{version}", name,
            version, purl=None if name == "python" else PackageURL("pypi", None, name, version),
            properties=[Property(name="rsqa:records", value=str(count))],
        )
        for (name, version), count in sorted(stated.items())
    ]  # fmt: skip


def _card(project: Project, model: Model, refs: set[str]) -> dict[str, Any]:
    facts = model_facts(project, model)
    trained = [f"data:{name}" for name in facts["inputs"] if f"data:{name}" in refs]
    learned = "reinforcement-learning" if model.asset in ("rl_policy", "rl_policy_rules_only") else "supervised"
    metrics = []
    for figure in figures_of(project, model.asset):
        entry: dict[str, Any] = {
            "type": figure.metric, "value": f"{figure.value:.6g}", "slice": f"{figure.measured_by}/{figure.task}",
        }  # fmt: skip
        if figure.low is not None and figure.high is not None:
            bounds = {"lowerBound": f"{figure.low:.6g}", "upperBound": f"{figure.high:.6g}"}
            entry["confidenceInterval"] = bounds
        metrics.append(entry)
    return {
        "modelParameters": {"approach": {"type": learned}, "datasets": [{"ref": ref} for ref in trained]},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"useCases": [facts["use"]], "technicalLimitations": facts["limits"]},
    }
