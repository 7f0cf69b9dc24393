"""The report's sections for auditing: what was quarantined and why, and the version of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open

from rsqa_pipeline.data_quality.tables import MAIN_TABLE
from rsqa_pipeline.models.load import weights_version
from rsqa_pipeline.report.blocks import Cell, ReportSection, Table, count, text_cell
from rsqa_pipeline.report.reading import read_json
from rsqa_pipeline.versions import folder_version

AssetFacts = Mapping[str, Mapping[str, Any]]
"""Asset -> its stage, the record type of its main table, and its inputs, from the table of stages."""

SCORED_BY = {"pair_scores": "score_model", "clip_scores": "base_models"}


def quality_section(inputs: Mapping[str, Path], assets: AssetFacts) -> ReportSection:
    """Kept and quarantined rows of every asset that can quarantine rows."""
    return ReportSection(
        "data-quality",
        "Quarantined records",
        [quarantine_table(inputs, assets)],
        lead="Records that cannot be used are quarantined with a reason and never dropped silently. A missing score "
        "stays missing; it is never set to 0.",
    )


def quarantine_table(inputs: Mapping[str, Path], assets: AssetFacts) -> Table:
    """Input, kept and quarantined rows by reason; input = kept + quarantined.

    An asset that uses records but writes no table of them (training) shows only the quarantined rows.
    """
    table = []
    for name, folder in inputs.items():
        if not (folder / "quarantine.parquet").is_file():
            continue
        reasons = Counter(pq.read_table(folder / "quarantine.parquet", columns=["reason"])["reason"].to_pylist())
        by_reason = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in sorted(reasons.items()))
        quarantined = sum(reasons.values())
        main = MAIN_TABLE.get(assets[name]["records"] or "")
        rows = [Cell("–"), Cell("–")]
        if main is not None:
            kept = pq.read_metadata(folder / main).num_rows
            rows = [count(kept + quarantined, f"quality/{name}/input"), count(kept, f"quality/{name}/kept")]
        table.append(
            [text_cell(name), *rows, count(quarantined, f"quality/{name}/quarantined"), text_cell(by_reason or "–")]
        )
    return Table("Rows by asset", ["asset", "input", "kept", "quarantined", "by reason"], table)


def lineage_section(inputs: Mapping[str, Path], assets: AssetFacts) -> ReportSection:
    """Data version of each asset and weights version of each model."""
    return ReportSection(
        "lineage",
        "Versions",
        [lineage_table(inputs, assets)],
        metrics=False,
        lead="The data version is the folder's MD5 as computed by DVC: the same string as in dvc.lock, Dagster and "
        "MLflow. The model version is a hash of the weights.",
    )


def lineage_table(inputs: Mapping[str, Path], assets: AssetFacts) -> Table:
    """Stage, asset, data version, model version and inputs."""
    models = {name: versions for name in inputs if (versions := model_versions(inputs[name]))}
    table = []
    for name, folder in inputs.items():
        scored_by = _scored_by(folder, models[SCORED_BY[name]]) if name in SCORED_BY else []
        table.append(
            [
                text_cell(assets[name]["stage"]),
                text_cell(name),
                Cell(folder_version(folder), number=False, key=f"lineage/{name}/data"),
                _versions([*models.get(name, {}).items(), *scored_by], f"lineage/{name}/model"),
                text_cell(", ".join(assets[name]["inputs"]) or "–"),
            ]
        )
    return Table("Assets", ["stage", "asset", "data version", "model version", "made from"], table)


def model_versions(folder: Path) -> dict[str, str]:
    """Version of each model that an asset holds: its own weights, or the base models it names; {} if it has none."""
    if (folder / "model").is_dir():
        return {"weights": weights_version(folder / "model")}
    return {
        kind: str(read_json(folder / f"{kind}.json")["version"])
        for kind in ("vlm", "clip")
        if (folder / f"{kind}.json").is_file()
    }


def parameters(base_models: Path, kind: str) -> str:
    """Size of a base model, such as "1.9 M parameters"; the model's name if its weights are not on disk."""
    path = str(read_json(base_models / f"{kind}.json")["path"])
    files = sorted((base_models / path).glob("*.safetensors"))
    if not files:
        return path
    total = 0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (safe_open is not a mapping)
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                total += size
    return f"{total / 1e9:.1f} B parameters" if total >= 1e9 else f"{total / 1e6:.1f} M parameters"


def _scored_by(folder: Path, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Model versions in the score rows; a version that is not a model of this run is flagged.

    The part after a dot is a variant of how the model is used, such as windowed_mean.
    """
    versions = pq.read_table(folder / "scores.parquet", columns=["model_version"])["model_version"].unique().to_pylist()
    return [
        ("scored by" if v.partition(".")[0] in known.values() else "scored by ANOTHER model", v)
        for v in sorted(versions)
    ]


def _versions(versions: list[tuple[str, str]], key: str) -> Cell:
    if not versions:
        return text_cell("–")
    return Cell("; ".join(f"{role} {version[:12]}" for role, version in versions), number=False, key=key)
