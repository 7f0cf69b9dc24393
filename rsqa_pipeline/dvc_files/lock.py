"""What ``dvc.lock`` records, and the manifests that can be rebuilt from it after the state folder was deleted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from rsqa_pipeline.data_quality.checks import run_checks
from rsqa_pipeline.dvc_files.stages import stage_entry
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.lineage.manifest import Manifest, manifests
from rsqa_pipeline.materialization.materialize import input_folders, metrics_file, recipe_of, weights_of
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.versions import folder_version, source_version

DVC_LOCK = Path("dvc.lock")


def locked_stages() -> dict[str, dict[str, Any]]:
    """Entries of ``dvc.lock`` by asset; empty if there is no such file.

    Raises:
        DataError: the file cannot be read as what DVC writes.
    """
    if not DVC_LOCK.exists():
        return {}
    try:
        return _stages_in(DVC_LOCK.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{DVC_LOCK} cannot be read ({_reason(error)}); restore it with "
            f"`git checkout {DVC_LOCK}`, or move it away and run again: the outputs are kept and recorded again"
        ) from error


def versions_in(text: str, name: str) -> dict[str, str]:
    """Data versions by asset in the text of a ``dvc.lock``, which an error calls ``name``.

    Raises:
        DataError: the text is not what DVC writes.
    """
    try:
        return {asset: _output_version(asset, stage) for asset, stage in _stages_in(text).items()}
    except (ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{name} cannot be read ({_reason(error)})") from error


def locked_versions() -> dict[str, str]:
    """Data versions in ``dvc.lock`` by asset."""
    return {name: _output_version(name, stage) for name, stage in locked_stages().items()}


def rebuild_manifests(profile_name: str, profile: Profile) -> list[str]:
    """Records outputs that stand as ``dvc.lock`` says but have no manifest here; returns their names.

    Only where command, code, parameters, inputs, output and metrics are all the recorded ones.
    """
    store, assets, rebuilt = manifests(profile), assets_of(profile), []
    for name, entry in locked_stages().items():
        # the cheap question first: nearly always every output has its manifest
        if name not in assets or store.find(name, _output_version(name, entry)) is not None:
            continue
        asset = assets[name]
        if not _stands(profile_name, profile, asset, entry):
            continue
        folder = asset.folder(profile)
        version = folder_version(folder)
        metrics = json.loads(metrics_file(profile, asset).read_text(encoding="utf-8"))
        checks = [check.as_dict() for check in run_checks(asset, folder, metrics, profile)]
        recipe = recipe_of(profile, asset, input_folders(profile, asset))
        facts = {"rebuilt_from": str(DVC_LOCK)}
        store.append(Manifest(name, version, recipe, metrics, checks, facts, weights_of(folder)))
        rebuilt.append(name)
    if rebuilt:
        logging.getLogger(__name__).info("manifests rebuilt from %s: %s", DVC_LOCK, ", ".join(rebuilt))
    return rebuilt


def _stands(profile_name: str, profile: Profile, asset: Asset, entry: Mapping[str, Any]) -> bool:
    """Whether the asset would be made now from exactly what the entry of ``dvc.lock`` records."""
    wanted = stage_entry(profile_name, profile, asset)
    outs, deps = _versions(entry.get("outs", [])), _versions(entry.get("deps", []))
    if entry.get("cmd") != wanted["cmd"] or set(deps) != set(wanted["deps"]):
        return False
    if set(outs) != {path for group in ("outs", "metrics") for out in wanted[group] for path in out}:
        return False
    for parameters in wanted["params"]:
        for file, keys in parameters.items():
            values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
            now = {key: reduce(lambda value, part: value[part], key.split("."), values) for key in keys}
            if entry.get("params", {}).get(file, {}) != now:
                return False
    recorded = {**deps, **outs}
    return all(Path(path).exists() and source_version(Path(path)) == md5 for path, md5 in recorded.items())


def _stages_in(text: str) -> dict[str, dict[str, Any]]:
    stages = yaml.load(text, Loader=yaml.CSafeLoader)["stages"]
    for stage in stages.values():
        _versions(stage.get("outs", [])), _versions(stage.get("deps", [])), dict(stage.get("params", {}))
    return dict(stages)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(' '.join(str(error).split()) or 'it is empty')[:200]}"


def _output_version(name: str, stage: Mapping[str, Any]) -> str:
    """The data version that an entry records for its asset; empty if it records none."""
    return next((md5 for path, md5 in _versions(stage.get("outs", [])).items() if path.endswith(f"/{name}")), "")


def _versions(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Path -> md5 of outputs or dependencies."""
    return {entry["path"]: entry["md5"] for entry in entries}
