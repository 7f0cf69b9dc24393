"""Audits a profile: recomputes every hash and compares all that was recorded. Writes nothing, asks no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsqa_pipeline.audit import record_checks
from rsqa_pipeline.audit.databases import dagster_story, mlflow_story
from rsqa_pipeline.audit.findings import Finding
from rsqa_pipeline.audit.forgotten import check_forgotten
from rsqa_pipeline.audit.outputs import changed_files, wrong_subset
from rsqa_pipeline.audit.registry import check_aliases, check_versions
from rsqa_pipeline.dvc_files.lock import locked_stages
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.links import RECORD, records
from rsqa_pipeline.lineage.manifest import Recipe
from rsqa_pipeline.lineage.recorded import records_folder
from rsqa_pipeline.materialization.materialize import input_folders, metrics_file, recipe_of
from rsqa_pipeline.materialization.staleness import differences
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import folder_version


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit."""

    findings: list[Finding]
    assets: int
    """Assets with a record."""
    linked: int
    """Records with links, of ``records``."""
    records: int
    unchecked: list[str]
    """What is not here to compare with."""


def audit(profile: Profile) -> Audit:
    """Compares files, records, ``dvc.lock``, Dagster's events, MLflow's runs and registry, and metrics files.

    Raises:
        DataError: the profile has no record, or a database cannot be read.
    """
    assets, bundle = assets_of(profile), profile.data / "report/lineage_manifest/manifests"
    folder = records_folder(profile)
    known = {name: records(folder, name) for name in assets}
    if not any(known.values()):
        raise DataError(f"profile {profile.name} has no recorded run; make one with `rsqa run`, or `dvc pull`")
    locked, dagster, mlflow = locked_stages(), dagster_story(profile), mlflow_story(profile)
    found = check_forgotten(profile)
    for name, asset in assets.items():
        found += record_checks.check_links(folder, name) + record_checks.check_bundle(name, known[name], bundle)
        if dagster is not None:
            found += record_checks.check_events(name, known[name], dagster)
        if mlflow is not None:
            for record in known[name]:
                found += record_checks.check_mlflow_run(name, record, mlflow)
        if known[name]:
            found += _check_asset(profile, asset, known, locked.get(name, {}))
    if mlflow is not None:
        found += check_aliases(mlflow) + check_versions(mlflow, known, profile.state / "mlruns")
    missing = {"dvc.lock": locked, "Dagster's database": dagster, "MLflow's database": mlflow}
    every = [record for made in known.values() for record in made]
    return Audit(
        sorted(set(found)),
        sum(bool(made) for made in known.values()),
        sum(RECORD in record["run"] for record in every),
        len(every),
        [name for name, story in missing.items() if not story],
    )


def _check_asset(
    profile: Profile, asset: Asset, known: Mapping[str, list[dict[str, Any]]], entry: Mapping[str, Any]
) -> list[Finding]:
    """The asset's output, and what else names its version."""
    folder, made = asset.folder(profile), known[asset.name]
    on_disk = folder_version(folder) if folder.is_dir() else None
    locked = {part["md5"] for part in entry.get("outs", [])}
    standing = _newest(made, {on_disk}) or _newest(made, locked) or made[-1]
    found = []
    if on_disk is None:
        found.append(Finding("missing_output", asset.name, f"{folder} is missing"))
    elif on_disk != standing["data_version"]:
        found += changed_files(asset.name, folder, standing["data_version"])
    else:
        found += _stale(profile, asset, standing, known)
    selects = asset.stage == "curated_subsets" and "subset" in asset.options
    if on_disk is not None and selects and not any(finding.kind == "edited_settings" for finding in found):
        found += wrong_subset(profile, asset)
    if standing["run"].get("git_changed_files", "0") not in ("0", "unknown"):
        detail = f"made with {standing['run']['git_changed_files']} uncommitted files"
        found.append(Finding("dirty_tree", asset.name, detail))
    folders = {name: path.as_posix() for name, path in input_folders(profile, asset).items()}
    found += record_checks.check_metrics_file(asset.name, metrics_file(profile, asset), standing)
    return found + record_checks.check_lock(asset.name, {**folders, asset.name: folder.as_posix()}, entry, standing)


def _newest(made: list[dict[str, Any]], versions: set[Any]) -> dict[str, Any] | None:
    return next((record for record in reversed(made) if record["data_version"] in versions), None)


def _stale(
    profile: Profile, asset: Asset, standing: Mapping[str, Any], known: Mapping[str, list[dict[str, Any]]]
) -> list[Finding]:
    """How the asset would be made now from something else; an input that was tampered with is a finding of its own."""
    inputs = input_folders(profile, asset)
    if not all(path.is_dir() for path in inputs.values()):
        return []
    try:
        now = recipe_of(profile, asset, inputs)
    except (DataError, OSError) as error:  # an outside file is gone
        return [Finding("stale_asset", asset.name, f"a source cannot be read: {error}")]
    recipe = standing["recipe"]
    before = Recipe(**{part: recipe[part] for part in ("code_version", "settings", "inputs", "sources")})
    tampered = {name for name, version in now.inputs.items() if _newest(known[name], {version}) is None}
    now.inputs.update({name: before.inputs[name] for name in tampered if name in before.inputs})
    return [
        Finding("edited_settings" if reason.startswith("settings") else "stale_asset", asset.name, reason)
        for reason in differences(before, now)
    ]
