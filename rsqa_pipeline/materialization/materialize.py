"""Makes one asset's folder from its inputs: skipped where nothing changed, whole or not at all where something did."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rsqa_pipeline.data_quality.checks import ADVISORY, CheckResult, run_checks
from rsqa_pipeline.errors import DataError
from rsqa_pipeline.git import ask_git, commit
from rsqa_pipeline.lineage.links import linked
from rsqa_pipeline.lineage.manifest import EMPTY_VERSION, Manifest, ManifestStore, Recipe, manifests
from rsqa_pipeline.materialization.cost import measured_cost
from rsqa_pipeline.materialization.profile_lock import profile_lock
from rsqa_pipeline.profile import Profile
from rsqa_pipeline.stages import assets_of
from rsqa_pipeline.stages.asset import Asset
from rsqa_pipeline.tracking.run_logger import RunLogger
from rsqa_pipeline.versions import code_version, folder_version, settings_version, source_version

_LIBRARIES = ("torch", "transformers", "trl", "peft", "numpy", "pillow")


@dataclass(frozen=True)
class Materialization:
    """An asset's output as it now stands on disk."""

    manifest: Manifest
    folder: Path
    reused: bool
    """True where the output was already there, made by the same recipe; nothing was computed."""
    seconds: float


class CheckFailed(DataError):
    """A blocking data-quality check failed; the output did not replace the previous one."""

    def __init__(self, asset: str, checks: list[CheckResult], rejected: Path) -> None:
        self.checks = checks
        faults = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.passed)
        super().__init__(
            f"{asset}: {faults}. The rejected output is in {rejected}; the previous one, if any, still stands"
        )


@contextmanager
def writing(profile: Profile, holder: str) -> Iterator[None]:
    """Holds the profile's lock and removes what a killed writer left in its data folder.

    Raises:
        DataError: another writer holds the lock; names it.
    """
    with profile_lock(profile, holder):
        _clear_leftovers(profile)
        yield


def restricted_profile(profile: Profile, asset: Asset) -> Profile:
    """The profile as the asset's function gets it: keys outside its list are absent and fail when they are read."""
    return _restricted(profile, [key.split(".") for key in ("name", *asset.keys)])


def settings_of(profile: Profile, asset: Asset) -> dict[str, Any]:
    """Value of every key of the profile that the asset reads, as JSON, and its options."""
    dump = profile.model_dump(mode="json")
    values = {key: _at(dump, key.split(".")) for key in asset.keys}
    return values | ({"options": json.loads(json.dumps(asset.options))} if asset.options else {})


def recipe_of(profile: Profile, asset: Asset, inputs: Mapping[str, Path]) -> Recipe:
    """What the asset's output would be made from now. Raises DataError where an input is missing."""
    return Recipe(
        code_version=code_version(asset.module),
        settings=settings_of(profile, asset),
        inputs={name: folder_version(folder) for name, folder in inputs.items()},
        sources={Path(path).as_posix(): source_version(Path(path)) for path in asset.sources},
    )


def input_folders(profile: Profile, asset: Asset) -> dict[str, Path]:
    """Folder of each of the asset's inputs."""
    assets = assets_of(profile)
    return {name: assets[name].folder(profile) for name in asset.inputs}


def current_manifest(profile: Profile, asset: Asset, store: ManifestStore) -> Manifest | None:
    """The manifest of the output on disk if it was made from what the asset would be made from now, else None."""
    folder, upstream = asset.folder(profile), input_folders(profile, asset)
    if not all(path.is_dir() for path in (folder, *upstream.values())):
        return None
    manifest = store.find(asset.name, folder_version(folder))
    return manifest if manifest and manifest.recipe == recipe_of(profile, asset, upstream) else None


def materialize(
    profile: Profile,
    asset: Asset,
    inputs: Mapping[str, Path],
    logger: RunLogger,
    run: Mapping[str, str] | None = None,
    force: bool = False,
) -> Materialization:
    """Builds the asset in a scratch folder, checks it and swaps it in whole; a killed run leaves the old output.

    Args:
        inputs: upstream asset -> its folder.
        run: ids of the runs that this happens in, for the manifest.
        force: compute even where the standing output was made by the same recipe, and without scores of earlier runs.
          Paid replies of servers are kept.

    Raises:
        DataError: an input is missing, the output is empty, or another process writes the profile.
        CheckFailed: the output failed a blocking check and was not swapped in.
    """
    started = time.monotonic()
    holder = f"Dagster run {run['dagster_run'][:8]}" if run and "dagster_run" in run else f"the making of {asset.name}"
    with writing(profile, holder):
        store = manifests(profile)
        manifest = None if force else current_manifest(profile, asset, store)
        reused = manifest is not None
        if manifest is None:
            if force:
                shutil.rmtree(profile.score_cache(asset.name), ignore_errors=True)
            manifest = linked(store, _make(profile, asset, inputs, logger, run or {}))
            store.append(manifest)
        _write_metrics(profile, asset, manifest.metrics)
    return Materialization(manifest, asset.folder(profile), reused, time.monotonic() - started)


def _make(
    profile: Profile, asset: Asset, inputs: Mapping[str, Path], logger: RunLogger, run: Mapping[str, str]
) -> Manifest:
    """Computes the output, checks it and swaps it in; an error removes what was computed so far."""
    started, begun = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    folder, recipe = asset.folder(profile), recipe_of(profile, asset, inputs)
    scratch = folder.parent / f".{asset.name}.scratch-{os.getpid()}-{secrets.token_hex(4)}"
    scratch.mkdir(parents=True)
    cost: dict[str, str] = {}
    try:
        with measured_cost(cost):
            metrics = asset.load()(inputs, scratch, restricted_profile(profile, asset), logger, **asset.options)
        made = folder_version(scratch)
        if made == EMPTY_VERSION:
            raise DataError(f"{asset.name}: the new output holds no file; the previous one, if any, still stands")
        checks = run_checks(asset, scratch, metrics, profile)
        if not all(check.passed for check in checks if check.name not in ADVISORY):
            rejected = folder.parent / f".{asset.name}.rejected"
            shutil.rmtree(rejected, ignore_errors=True)
            scratch.rename(rejected)
            raise CheckFailed(asset.name, checks, rejected)
        _swap(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if folder_version(folder) != made:
        raise DataError(f"{folder} was changed by another process while it was put in place; run {asset.name} again")
    facts = {**_environment(), **run, "started": begun, "seconds": f"{time.monotonic() - started:.1f}", **cost}
    facts["settings_version"] = settings_version(recipe.settings)
    results = [check.as_dict() for check in checks]
    return Manifest(asset.name, made, recipe, metrics, results, facts, weights_of(folder))


def weights_of(folder: Path) -> str | None:
    """Version of the weights in an output's ``model``, for its manifest; None if it holds no model."""
    if not (folder / "model").is_dir():
        return None
    from rsqa_pipeline.models.load import weights_version  # torch, which most outputs do not wait for

    return weights_version(folder / "model")


def metrics_file(profile: Profile, asset: Asset) -> Path:
    """Where an asset's metrics stand for `dvc metrics` and for people."""
    return Path("metrics") / profile.name / f"{asset.name}.json"


def _restricted(section: Any, keys: list[list[str]]) -> Any:
    """A section with no more than the fields that the keys name, below it and deeper."""
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(key[0] for key in keys):
        below = [key[1:] for key in keys if key[0] == name]
        value = section[name] if isinstance(section, dict) else getattr(section, name)
        fields[name] = _restricted(value, below) if all(below) else value
    if isinstance(section, dict):
        return fields
    restricted = type(section).model_construct(**fields)
    for name in set(restricted.__dict__) - set(fields):  # defaults, which would hide that a key is not listed
        del restricted.__dict__[name]
    return restricted


def _at(settings: Any, key: list[str]) -> Any:
    return _at(settings[key[0]], key[1:]) if key else settings


def _swap(scratch: Path, folder: Path) -> None:
    """Puts ``scratch`` in ``folder``'s place. Killed in between, the next writer puts the old output back."""
    old = folder.parent / f".{folder.name}.old"
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(profile: Profile) -> None:
    """Removes scratch folders of killed writers and ends the swaps that they began. Called with the lock held."""
    for scratch in profile.data.glob("*/.*.scratch*"):
        shutil.rmtree(scratch, ignore_errors=True)
    for old in profile.data.glob("*/.*.old"):
        folder = old.with_name(old.name[1:].removesuffix(".old"))
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)


def _write_metrics(profile: Profile, asset: Asset, metrics: Mapping[str, float]) -> None:
    path = metrics_file(profile, asset)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(metrics), indent=1, sort_keys=True, allow_nan=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        scratch = path.with_suffix(".scratch")
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    facts: dict[str, Any] = {name: version(name) for name in _LIBRARIES}
    host = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return {**facts, "python": platform.python_version(), "host": host, **_git()}


def _git() -> dict[str, str]:
    changed = ask_git("status", "--porcelain", "--", "rsqa_pipeline", "configs", "constraints.txt")
    files = "unknown" if changed is None else str(len(changed.splitlines()))
    return {"git_commit": commit(), "git_changed_files": files}
