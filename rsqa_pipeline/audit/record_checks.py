"""One asset's records against each other, the metrics file, ``dvc.lock``, Dagster and MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsqa_pipeline.audit.databases import DagsterStory, MlflowStory
from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.lineage.links import INPUT, NONE, PREVIOUS, RECORD, record_hash, records

Record = Mapping[str, Any]


def check_links(folder: Path, asset: str) -> list[Finding]:
    """Lines that are not records, and records that are not what was written: by their own hash and by their links."""
    path = folder / f"{asset}.jsonl"
    known, found = records(folder, asset), list[Finding]()
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.is_file() else []
    if len(lines) != len(known):
        found.append(Finding("edited_manifest", asset, f"{path}: {len(lines) - len(known)} lines are not records"))
    before = NONE
    for number, record in enumerate(known, start=1):
        run, where = record["run"], f"{path}, record {number}"
        if RECORD in run and run[RECORD] != record_hash(record):
            found.append(Finding("edited_manifest", asset, f"{where} is not what was written"))
        if PREVIOUS in run and run[PREVIOUS] != before:
            found.append(Finding("edited_manifest", asset, f"{where} does not follow the record before it"))
        for name, version in record["recipe"]["inputs"].items():
            link = run.get(INPUT + name, NONE)
            hashes = {record_hash(other): other["data_version"] for other in records(folder, name)}
            if link != NONE and hashes.get(link) != version:
                found.append(Finding("edited_manifest", name, f"the record that {where} names is gone or was edited"))
        before = record_hash(record)
    return found


def check_bundle(asset: str, known: list[dict[str, Any]], bundle: Path) -> list[Finding]:
    """The records against the copies that travel with the data: all fields but the run's facts must agree."""
    found = []
    for copy in records(bundle, asset):
        same = [record for record in known if record["data_version"] == copy["data_version"]]
        if same and not any(_facts(record) == _facts(copy) for record in same):
            found.append(Finding("edited_manifest", asset, f"the record of {copy['data_version']} is not its copy's"))
    return found


def _facts(record: Record) -> dict[str, Any]:
    facts = {key: value for key, value in record.items() if key != "run"}
    return {"weights": None, **facts}


def check_metrics_file(asset: str, path: Path, standing: Record) -> list[Finding]:
    """The metrics for people and `dvc metrics` against the record."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [Finding("changed_metric", asset, f"{path} cannot be read: {type(error).__name__}")]
    names = _unequal(metrics, standing["metrics"]) if isinstance(metrics, dict) else ["all"]
    return [Finding("changed_metric", asset, f"{path}: {', '.join(names)}")] if names else []


def _unequal(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*found, *recorded} if found.get(name) != recorded.get(name))


def check_lock(asset: str, folders: Mapping[str, str], entry: Mapping[str, Any], standing: Record) -> list[Finding]:
    """The entry of ``dvc.lock`` against the record.

    Args:
        folders: folder of the asset and of each of its inputs, by asset.
    """
    versions = {part["path"]: part["md5"] for part in (*entry.get("outs", []), *entry.get("deps", []))}
    if folders[asset] not in versions:  # of another profile
        return []
    recorded = {asset: standing["data_version"], **standing["recipe"]["inputs"]}
    return [
        Finding("dvc_lock", asset, f"{name} is {versions[folders[name]]} in dvc.lock, {version} in the record")
        for name, version in recorded.items()
        if name in folders and versions.get(folders[name], version) != version
    ]


def check_events(asset: str, known: list[dict[str, Any]], story: DagsterStory) -> list[Finding]:
    """Dagster's events against the records: each names a recorded version, and each record's run made its version."""
    found, events = [], story.versions.get(asset, [])
    recorded, made_by = {record["data_version"] for record in known}, dict(events)
    for run, version in events:
        if version not in recorded:
            found.append(Finding("dagster_event", asset, f"run {run} made {version}, which no record has"))
    for record in known:
        run, version = record["run"].get("dagster_run"), record["data_version"]
        if run is not None and run not in story.runs:
            found.append(Finding("missing_run", asset, f"Dagster has no run {run}"))
        elif made_by.get(run, version) != version:
            found.append(Finding("dagster_event", asset, f"the record names run {run}, which did not make {version}"))
    return found


def check_mlflow_run(asset: str, record: Record, story: MlflowStory) -> list[Finding]:
    """A record's MLflow run: its metrics, the digests of its inputs and the version of its output."""
    run = record["run"].get("mlflow_run")
    if run is None:
        return []
    if run not in story.tags:
        return [Finding("missing_run", asset, f"MLflow has no run {run}")]
    if run not in story.finished:
        return []
    digests = {**story.digests[run], asset: story.tags[run].get("dvc.md5", "no version")}
    recorded = {**record["recipe"]["inputs"], asset: record["data_version"]}
    found = [
        Finding("data_digest", asset, f"run {run}: {name} is {digests[name]}, recorded was {version}")
        for name, version in recorded.items()
        if name in digests and digests[name] != version
    ]
    found += [
        Finding("data_digest", asset, f"run {run} names no data of {name}") for name in recorded if name not in digests
    ]
    logged = {name: value for name, value in story.metrics[run].items() if name in record["metrics"]}
    names = _unequal(logged, record["metrics"])
    return found + ([Finding("changed_metric", asset, f"MLflow run {run}: {', '.join(names)}")] if names else [])
